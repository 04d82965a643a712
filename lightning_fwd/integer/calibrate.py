"""Exponents before the first step: of weights from their values, of activations from the float network on the first batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from ..errors import StepError
from .arithmetic import BIAS_BITS, BIAS_EXPONENT
from .body_rules import BODY
from .lower_step import IntegerStep
from .lowering import PREFIX
from .masters import UNKNOWN, fits, row_exponents, value_exponent
from .settings import Integer

MOST_BIAS = 1 << (BIAS_BITS - 1 - BIAS_EXPONENT)


class _Largest(fx.Interpreter):
    """Runs a float step and keeps the largest magnitude of some of its values."""

    def __init__(self, module: fx.GraphModule, wanted: set[str]):
        super().__init__(module)
        self.wanted, self.found = wanted, {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.found[n.name] = float(value.abs().max())
        return value


def exponent_buffers(*steps: IntegerStep) -> dict[str, Tensor]:
    """Every exponent that the steps read, by the name of its buffer in ``inserted.integer``; unknown yet."""
    shapes = {name: (1,) for step in steps for name in step.activations}  # the body reads some as constants
    for step in steps:
        read = [name for name in step.graph.state if name.startswith(PREFIX) and not name.startswith(BODY)]
        shapes |= {name: tuple(step.graph.node(name).meta["val"].shape) for name in read}
    return {name.removeprefix(PREFIX): torch.full(shape, UNKNOWN, dtype=torch.int8) for name, shape in shapes.items()}


@torch.no_grad()
def calibrate_weights(step: IntegerStep, parameters: Mapping[str, Tensor], buffers: dict[str, Tensor], settings: Integer) -> None:
    """Exponents of rows that have none yet, or whose weights were exchanged for larger ones."""
    for name in step.weights:
        learns, exponents = name in step.masters, buffers[name.replace(".", "/")]
        if int(exponents[0]) == UNKNOWN or not fits(parameters[name], exponents, learns):
            exponents.copy_(row_exponents(parameters[name], settings.room if learns else 0, settings.scales == "row"))


def require_reach(parameters: Mapping[str, Tensor]) -> None:
    """Refuse biases that 24 bits do not hold.

    Raises:
        StepError: naming the bias.
    """
    for name, value in parameters.items():
        if value.ndim == 1 and value.is_floating_point() and name.endswith("bias") and not bool((value.detach().abs() < MOST_BIAS).all()):
            raise StepError(
                f"{name} reaches {float(value.detach().abs().max()):g}",
                f"a bias in integers stays within +-{MOST_BIAS}",
                "scale the layer's input down",
            )


@torch.no_grad()
def calibrate_activations(
    step: IntegerStep, state: dict[str, Tensor], x: Tensor, target: Tensor | None, buffers: dict[str, Tensor]
) -> None:
    """Exponents of activations that have none yet, from the float step on one batch.

    Args:
        state: the float step's tensors by name; optimizer state that it lacks is zero.
    """
    missing = {name: node for name, node in step.activations.items() if int(buffers[name.removeprefix(PREFIX)]) == UNKNOWN}
    if not missing:
        return
    found = largest(step, state, x, target, set(missing.values()))
    if found.get(missing.get(f"{PREFIX}input", "")) == 0:
        raise StepError("the first batch is zero throughout", "the scale of the input is found on it", "begin with another batch")
    for name, node in missing.items():
        buffers[name.removeprefix(PREFIX)].copy_(value_exponent(found[node]))


@torch.no_grad()
def largest(step: IntegerStep, state: Mapping[str, Tensor], x: Tensor, target: Tensor | None, nodes: set[str]) -> dict[str, float]:
    """The largest magnitude of nodes of the float step, on one batch. Arguments as of :func:`calibrate_activations`."""
    names = {node: name for name, node in (step.source.inputs | step.source.state).items()}
    known = dict(state) | {"input": x, "target": target}
    holders = [n for n in step.source.graph.nodes if n.op == "placeholder"]
    values = [known[names[n.name]] if names[n.name] in known else torch.zeros(n.meta["val"].shape) for n in holders]
    run = _Largest(step.source.module, nodes)
    run.run(*values)
    return run.found
