"""The second pass as a tangent: how each activation would begin to change if the input were moved along F e.

``delta_0 = F e``, ``delta_l`` the Jacobian of layer l and its activation, at the first pass's values, times ``delta_{l-1}``: with ReLU
``1[h_l > 0] * W_l delta_{l-1}``. It is the limit of ``h_err - h`` for a small F, without the rounding of a difference of two close numbers:
in eight bits ``F e`` is two steps of the input, and the difference of two passes hardly more than noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...graph.phase import layer, phase
from ...graph.rewritten import RewrittenModel
from ...graph.units import Unit
from .walk import Walk


class Tangent:
    """A forward pass of changes, a unit at a time; holds only the changes that are still to be read.

    Args:
        change: of the input ``(B, ...)``.
    """

    def __init__(self, model: RewrittenModel, change: Tensor):
        self.model, self.changes = model, {model.inserted.unit_input: change}

    def run(self, unit: Unit, read: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """The change of the unit's activation h; ``read``: what the unit reads in the first pass (:func:`what_it_reads`), z what its layer
        gave there."""
        known = {**read, unit.z: z.detach()}
        with phase("second_forward"), layer(unit.path):
            (self.changes[unit.z],) = self._pushed(unit.layer, unit.layer_inputs, known)
            results = self._pushed(unit.rest, unit.rest_inputs, known)
        self.changes.update(zip(unit.gives, results, strict=True))
        h = self.changes[unit.h]
        for name in (*unit.dead, *([unit.h] if unit.h_is_dead else [])):
            self.changes.pop(name, None)
        return h

    def _pushed(self, part: Callable[..., Sequence[Tensor]], names: list[str], known: Mapping[str, Tensor]) -> list[Tensor]:
        """The Jacobian of ``part`` times the changes: the gradient of the gradient, which is linear in what is handed back.

        Traced, the inner gradient is read by nothing and gone; forward mode would leave a convolution with zeros for each weight.
        """
        with torch.enable_grad():
            values = [known[name].detach().requires_grad_() for name in names]
            results = part(self.model, *values)
            handed = [torch.zeros_like(r, requires_grad=True) for r in results]
            back = torch.autograd.grad(results, values, handed, create_graph=True, allow_unused=True)
            read = [(b, self.changes[name]) for b, name in zip(back, names, strict=True) if b is not None]
            changes = torch.autograd.grad([b for b, _ in read], handed, [c for _, c in read], allow_unused=True)
        return [torch.zeros_like(r) if c is None else c.detach() for c, r in zip(changes, results, strict=True)]


def what_it_reads(unit: Unit, walk: Walk) -> dict[str, Tensor]:
    """Values of a pass that a unit reads, before it runs."""
    return {name: walk.values[name] for name in (*unit.layer_inputs, *unit.rest_inputs) if name != unit.z}
