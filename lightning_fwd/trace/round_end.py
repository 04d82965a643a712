"""Trace what a round of a rule ends with, to a flat aten graph over the model's state: the C between two rounds is made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..graph.constants import COUNTER
from ..graph.modes import kept_modes
from ..graph.phase import layer, phase
from ..graph.rewritten import RewrittenModel
from .step_graph import StepGraph, finish, trace_flat


class _End(nn.Module):
    """The end of a round as a module over the model, so that ``functional_call`` can put the traced tensors in."""

    def __init__(self, model: RewrittenModel):
        super().__init__()
        self.model = model

    def forward(self) -> dict[str, Tensor]:
        with torch.no_grad(), phase("update"), layer(""):
            return {update.name: update.value for update in self.model.method.end_of_round(self.model) if update.value is not None}


def trace_round_end(model: RewrittenModel) -> StepGraph:
    """The end of the round that the model is in (:meth:`lightning_fwd.methods.base.LearningMethod.stages`): a graph without a batch; the
    model is left as it was."""
    tensors = {name: t for name, t in [*model.named_parameters(), *model.named_buffers()] if name != COUNTER}
    shell, results_of = _End(model), list[str]()

    def end(*flat: Tensor) -> list[Tensor]:
        results = functional_call(shell, {f"model.{name}": t for name, t in zip(tensors, flat, strict=True)}, ())
        results_of[:] = results
        return list(results.values())

    with kept_modes(model):
        module = trace_flat(end, model, list(tensors.values()))
    return finish(module, list(tensors), results_of, [], model)
