"""Backpropagation: the reference that every other rule is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...graph.grad_mode import grad_mode
from ...graph.rewritten import RewrittenModel
from ...passes import fold_batch_norm
from ..base import LearningMethod, Logits, StepRecord, Updates, require_trainable
from ..local_gradients import local_gradients


@dataclass
class Backprop(LearningMethod):
    """Full backpropagation of the user's loss.

    Args:
        batch_norm: ``"train"`` normalises by the batch and updates the statistics; ``"freeze"`` uses the stored ones; ``"fold"`` folds them
            into the layer before.
    """

    forward_only: ClassVar[bool] = False
    reaches_input: ClassVar[bool] = True
    batch_norm: Literal["train", "freeze", "fold"] = "train"

    def rewrite(self, model: RewrittenModel) -> None:
        require_trainable(model, [name for name, _ in model.named_parameters()])
        if self.batch_norm == "fold":
            fold_batch_norm(model)

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with grad_mode(True, "forward"):
            logits = model.run(record.input)
        error = yield Logits(logits)
        named: dict[str, torch.Tensor] = {name: p for name, p in model.parameters_by_name().items() if p.requires_grad}
        if record.input.requires_grad:
            named["input"] = record.input
        yield from local_gradients(named, logits, error)
