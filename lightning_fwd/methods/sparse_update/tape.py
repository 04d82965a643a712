"""Backpropagation node by node: every update leaves as soon as it is known, nothing is kept below the deepest trained layer."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...graph.blocks import parameters_of
from ...graph.constants import is_constant
from ...graph.phase import layer
from ...graph.rewritten import RewrittenModel
from ...graph.segment import Segment
from ...graph.step import Updates
from .error_sparsity import ErrorSparsity
from .layers import stage_of


class Tape:
    """The forward pass of a captured graph that keeps what its trained parameters need, and the way back.

    Args:
        trained: names of the parameters that learn.
        stored_norms: whether batch norms run on their stored statistics.

    Attributes:
        stages: the nodes on the way back, in order of execution. sparsity: dynamic sparsity of the error, if wanted.
    """

    sparsity: ErrorSparsity | None = None

    def __init__(self, model: RewrittenModel, trained: set[str], stored_norms: bool):
        graph: fx.Graph = model.graph
        nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output") and not is_constant(n)]
        output = next(n for n in graph.nodes if n.op == "output").args[0]
        own = {n: [name for name in parameters_of(n, model) if name in trained] for n in nodes}
        needing: set[fx.Node] = set()
        for node in nodes:
            if own[node] or any(n in needing for n in node.all_input_nodes):
                needing.add(node)
        above = _ancestors(output)
        staged = [n for n in nodes if n in needing and n in above]
        before = [n for n in nodes if n not in needing and n in above]
        last_use = {i: n for n in staged for i in n.all_input_nodes}
        entries = [n for n in graph.nodes if n not in staged and n in last_use and not is_constant(n)]
        x = next(n for n in graph.nodes if n.op == "placeholder")
        self._before = Segment(before, [x], entries)
        self._entries, self._output = [n.name for n in entries], output.name
        self.stages = [stage_of(n, model, needing, own[n], stored_norms) for n in staged]
        self._dead = [[i.name for i, n in last_use.items() if n is node and not is_constant(i)] for node in staged]

    def forward(self, model: RewrittenModel, x: Tensor) -> tuple[Tensor, list[tuple]]:
        """``(B, ...) -> (logits (B, C), what each stage keeps)``."""
        kept = []
        with torch.no_grad():
            values = dict(zip(self._entries, self._before(model, x), strict=True))
            for stage, dead in zip(self.stages, self._dead, strict=True):
                values[stage.name], keeps = stage.forward(model, *(values[name] for name in stage.inputs))
                kept.append(keeps)
                for name in dead:
                    del values[name]
        return values[self._output], kept

    def backward(self, model: RewrittenModel, kept: list[tuple], error: Tensor) -> Updates:
        """Yields the update of each trained parameter, last layer first; ``kept`` is used up."""
        errors = {self._output: error}
        del error
        for stage in reversed(self.stages):
            keeps = kept.pop()
            if stage.name not in errors:
                continue
            with torch.no_grad(), layer(stage.path):
                grad = errors.pop(stage.name)
                if self.sparsity is not None and self.sparsity.applies_to(stage):
                    rows, grad, updates = self.sparsity.select(stage, grad)
                    input_grads, more = stage.backward(model, keeps, grad, rows)
                    updates += more
                else:
                    input_grads, updates = stage.backward(model, keeps, grad)
                del keeps, grad
                wanting = [name for name, need in zip(stage.inputs, stage.needs, strict=True) if need]
                for name, g in zip(wanting, input_grads, strict=True):
                    if g is not None:
                        errors[name] = errors[name] + g if name in errors else g
                input_grads = g = None
            while updates:
                yield updates.pop(0)


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that its value depends on."""
    found, stack = set(), [node]
    while stack:
        current = stack.pop()
        if current not in found:
            found.add(current)
            stack += current.all_input_nodes
    return found
