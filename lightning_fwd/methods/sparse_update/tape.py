"""Backpropagation node by node: every update leaves as soon as it is known, nothing is kept below the deepest trained layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...graph.blocks import canonical_names, parameters_of
from ...graph.constants import is_constant
from ...graph.frozen_prefix import split_frozen
from ...graph.phase import layer
from ...graph.rewritten import RewrittenModel
from ...graph.step import Update, Updates
from .error_sparsity import ErrorSparsity
from .layers import may_have_gradient, stage_of


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
        self._names = {name: first for name, first in canonical_names(model).items() if first in trained}
        split = split_frozen(model.graph, model, set(self._names))
        self._before, self._entries, self._output = split.before, [n.name for n in split.entries], split.output.name
        last_use = {i: n for n in split.after for i in n.all_input_nodes if not is_constant(i)}
        needing, self.stages = set(), []
        for node in split.after:
            own = [name for name in parameters_of(node, model) if name in self._names]
            if may_have_gradient(node) and (own or any(n in needing for n in node.all_input_nodes)):
                needing.add(node)
            self.stages.append(stage_of(node, model, needing, own, stored_norms))
        self._dead = [[i.name for i, n in last_use.items() if n is node] for node in split.after]

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
                yield self._renamed(updates.pop(0))

    def _renamed(self, update: Update) -> Update:
        """Of a tied weight each use gives its part of the gradient, under the one name that the weight has."""
        return replace(update, name=self._names.get(update.name, update.name))
