"""One forward pass of PEPITA, a unit at a time."""

from __future__ import annotations

from torch import Tensor

from ...graph.grad_mode import grad_mode
from ...graph.phase import Phase, layer, phase
from ...graph.rewritten import RewrittenModel
from ...graph.units import Unit


class Walk:
    """A forward pass from ``x`` that holds only the values that are still to be read.

    Args:
        phase: what the pass is called in the step graph.
    """

    def __init__(self, model: RewrittenModel, x: Tensor, phase: Phase):
        self.model, self.phase, self.values = model, phase, {model.inserted.unit_input: x}

    def run(self, unit: Unit, learns: bool = False, through: bool = False) -> Tensor:
        """The layer and what follows it; returns the layer's output z, with a graph back to its parameters if it ``learns``.

        Args:
            through: keep the graph past z (the output layer's error is known after what follows it).
        """
        with phase(self.phase), layer(unit.path):
            with grad_mode(learns):
                (z,) = unit.layer(self.model, *(self.values[name] for name in unit.layer_inputs))
            with grad_mode(learns and through):
                unit.run_rest(self.model, z if through else z.detach(), self.values)
        return z

    def take(self, unit: Unit) -> Tensor:
        """The unit's activation h; this pass forgets it where no later unit reads it."""
        return self.values.pop(unit.h) if unit.h_is_dead else self.values[unit.h]

    @property
    def output(self) -> Tensor:
        return self.values[self.model.inserted.unit_output]
