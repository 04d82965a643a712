"""Backpropagation node by node: every update leaves as soon as it is known, nothing is kept below the deepest trained layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, fx

from ...graph.blocks import canonical_names, parameters_of
from ...graph.frozen_prefix import split_frozen
from ...graph.phase import layer
from ...graph.rewritten import RewrittenModel
from ...graph.step import Update, Updates
from .error_sparsity import ErrorSparsity
from .layers import holds_several, may_have_gradient, stage_of


class Tape:
    """The forward pass of a captured graph that keeps what its trained parameters need, and the way back.

    Args:
        trained: names of the parameters that learn.
        stored_norms: whether batch norms run on their stored statistics.

    Attributes:
        stages: what is passed on the way back, mostly one node each, in order of execution. sparsity: dynamic sparsity of the error, if
            wanted.
    """

    sparsity: ErrorSparsity | None = None

    def __init__(self, model: RewrittenModel, trained: set[str], stored_norms: bool):
        self._names = {name: first for name, first in canonical_names(model).items() if first in trained}
        split = split_frozen(model.graph, model, set(self._names))
        self._before, self._entries, self._output = split.before, [n.name for n in split.entries], split.output.name
        needing, self.stages = set(), []
        several: dict[
            fx.Node, list[fx.Node]
        ] = {}  # a value of several tensors (chunk, attention): what makes it, again for each of its readers
        for node in split.after:
            nodes = [*dict.fromkeys(n for i in node.all_input_nodes for n in several.get(i, ())), node]
            if holds_several(node):
                several[node] = nodes
                continue
            own = [name for n in nodes for name in parameters_of(n, model) if name in self._names]
            if may_have_gradient(node) and (own or any(i in needing for n in nodes for i in n.all_input_nodes)):
                needing.add(node)
            self.stages.append(stage_of(nodes, model, needing, own, stored_norms))
        last_use = {name: i for i, stage in enumerate(self.stages) for name in stage.inputs}
        self._dead = [[name for name, last in last_use.items() if last == i] for i in range(len(self.stages))]

    def forward(self, model: RewrittenModel, x: Tensor) -> tuple[Tensor, list[tuple]]:
        """``(B, ...) -> (logits (B, C), what each stage keeps and the type of its value)``."""
        kept = []
        with torch.no_grad():
            values = dict(zip(self._entries, self._before(model, x), strict=True))
            for stage, dead in zip(self.stages, self._dead, strict=True):
                values[stage.name], keeps = stage.forward(model, *(values[name] for name in stage.inputs))
                kept.append((keeps, getattr(values[stage.name], "dtype", None)))
                for name in dead:
                    del values[name]
        return values[self._output], kept

    def backward(self, model: RewrittenModel, kept: list[tuple], error: Tensor) -> Updates:
        """Yields the update of each trained parameter, last layer first; ``kept`` is used up."""
        errors = {self._output: error}
        del error
        for stage in reversed(self.stages):
            keeps, dtype = kept.pop()
            if stage.name not in errors:
                continue
            with torch.no_grad(), layer(stage.path):
                grad = errors.pop(stage.name).to(dtype)  # under autocast its reader may have computed in another type
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
                yield self._renamed(updates.pop(0))

    def _renamed(self, update: Update) -> Update:
        """Of a tied weight each use gives its part of the gradient, under the one name that the weight has."""
        return replace(update, name=self._names.get(update.name, update.name))
