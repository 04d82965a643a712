"""How many bytes each value of a step takes at a given width."""

from __future__ import annotations

import operator
from typing import Literal

from torch import Tensor, fx

from ..errors import StepError
from ..trace.optimizers import is_optimizer_state
from ..trace.step_graph import StepGraph
from ..trace.values import gradient_values, tensors_of

Width = Literal["fp32", "int8", "mixed"]
WIDTHS = ("fp32", "int8", "mixed")
LOWERED = "integer"  #: of a step that was lowered to integers: as it stands in the graph
MASTER_BYTES = 2  #: of the int16 copy that an int8 weight is updated in


def check_width(width: str) -> None:
    """Raises:
    StepError: not one of :data:`WIDTHS`.
    """
    if width not in (*WIDTHS, LOWERED):
        raise StepError(f"unknown width {width!r}", "", f"known widths: {', '.join(WIDTHS)}")


class Widths:
    """Bytes of every value of one step.

    - ``fp32``: as traced.
    - ``int8``: weights, activations and errors take one byte. Gradients of weights are int32 accumulators; biases, per-channel and
      per-sample vectors, indices and the loss are 32-bit; a trained weight has an int16 master beside its int8 copy. Optimizer state
      (momentum, Adam's moments), of weights and biases alike, is int16, on the grid of the masters.
    - ``integer``: of a step lowered by :mod:`lightning_fwd.integer`: as in its graph, masters in place of int8 weights.
    - ``mixed``: int8 for everything that depends on nothing that the step trains, fp32 for the rest (as traced), optimizer state included.
    """

    def __init__(self, step: StepGraph, width: str):
        check_width(width)
        self.width, self.step = width, step
        self._states = {node: name for name, node in step.state.items()}
        self._gradients = gradient_values(step)
        self._float = self._full_width()

    def _full_width(self) -> set[fx.Node]:
        if self.width in ("int8", LOWERED):
            return set()
        if self.width == "fp32":
            return set(self.step.graph.nodes)
        tainted: set[fx.Node] = set()
        for node in self.step.graph.nodes:
            changes = self._states.get(node.name) in self.step.mutated or self._is_optimizer(node)
            if changes or any(n in tainted for n in node.all_input_nodes):
                tainted.add(node)
        return tainted

    def _is_optimizer(self, node: fx.Node) -> bool:
        return is_optimizer_state(self._states.get(node.name, ""))

    def arithmetic(self, node: fx.Node) -> Literal["int8", "fp32"]:
        return "fp32" if node in self._float else "int8"

    def bytes(self, node: fx.Node, output: int = 0) -> int:
        """Bytes of one output of a node; 0 where it is not asked for."""
        if node.target is operator.getitem:
            node, output = node.args
        tensors = tensors_of(node)
        if output >= len(tensors) or tensors[output] is None:
            return 0
        return tensors[output].numel() * self._element(node, output, tensors[output])

    def _element(self, node: fx.Node, output: int, value: Tensor) -> int:
        if self.width == LOWERED:
            return value.element_size()
        if node in self._float or not value.dtype.is_floating_point:
            return value.element_size() if self.width == "fp32" else min(value.element_size(), 4)
        if self._is_optimizer(node):
            return 2
        if value.ndim <= 1 or (node, output) in self._gradients or node.meta["phase"] == "error":
            return 4
        return 1

    def master_bytes(self, name: str) -> int:
        """Bytes of the int16 master of what learns of a trained parameter, 0 where its own width serves."""
        if self.width == LOWERED:
            return 0
        value = self.step.node(name)
        return self.step.learning_entries(name) * MASTER_BYTES if self.bytes(value) == value.meta["val"].numel() else 0
