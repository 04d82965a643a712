"""Forward-Forward: a positive and a negative pass instead of a forward and a backward one.

Hinton, "The Forward-Forward algorithm", 2022 (arXiv 2212.13345). Each block raises its goodness (mean or sum of squared activations) above a
threshold for a sample with its true label, and lowers it for the same sample with a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.counter_random import wrong_labels
from ..graph.errors import RewriteError
from ..graph.phase import phase
from ..graph.rewritten import RewrittenModel
from ..passes import insert_block_walls, insert_goodness_heads, insert_label_embedding, insert_normalisation
from .base import LearningMethod, Logits, StepRecord, Updates, require_trainable
from .local_loss import local_gradients


class LabelOverlay(nn.Module):
    """The label, one-hot times ``scale``, written over the first C values of each sample ``(B, ...)``."""

    def __init__(self, num_classes: int, scale: float):
        super().__init__()
        self.num_classes, self.scale = num_classes, scale

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        one_hot = F.one_hot(label, self.num_classes).to(x.dtype) * self.scale
        return torch.cat([one_hot, x.flatten(1)[:, self.num_classes :]], dim=1).reshape(x.shape)


class SampleNorm(nn.Module):
    """Each sample divided by its root mean square: keeps the direction of the activity, drops its length."""

    def forward(self, h: Tensor) -> Tensor:
        dims = list(range(1, h.ndim))
        return h / (h.square().mean(dims, keepdim=True).sqrt() + 1e-8)


class SquaredGoodness(nn.Module):
    """``(B, ...) -> (B,)``: mean or sum over a sample's squared activations."""

    def __init__(self, reduction: Literal["mean", "sum"]):
        super().__init__()
        self.reduction = reduction

    def forward(self, h: Tensor) -> Tensor:
        squared = h.flatten(1).square()
        return squared.mean(1) if self.reduction == "mean" else squared.sum(1)


@dataclass
class ForwardForward(LearningMethod):
    """Forward-Forward on every block but the last; the last one learns from the user's loss, as the readout.

    Args:
        goodness: ``"mean"`` or ``"sum"`` of squared activations.
        threshold: theta; None takes 1 for the mean and the number of units for the sum.
        prediction: ``"head"`` reads the model's own last layer in one pass of the plain input. ``"goodness"`` runs every label and takes the one
            of highest goodness, summed over all hidden blocks but the first (C passes, batched).
        label_scale: value of the label entry in the overlay.
        batch_norm: ``"freeze"`` or ``"train"`` (positive and negative samples share one batch and its statistics).
        seed: of the wrong labels.
    """

    needs_target: ClassVar[bool] = True
    granularity: str | int | Sequence[str] = "layer"
    goodness: Literal["mean", "sum"] = "mean"
    threshold: float | None = None
    prediction: Literal["head", "goodness"] = "head"
    label_scale: float = 1.0
    batch_norm: Literal["freeze", "train"] = "freeze"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        name, values = type(model.original).__name__, torch.Size(model.input_shape).numel()
        if len(model.plan) < 2:
            raise RewriteError(
                f"ForwardForward needs a hidden block, {name} has one block",
                "the last block is the readout",
                "use a finer granularity",
            )
        if values < model.num_classes:
            raise RewriteError(
                f"ForwardForward cannot write {model.num_classes} classes over {values} input values",
                "the overlay needs one value per class",
                "use local_loss, or feed wider inputs",
            )
        require_trainable(model, [p for p, _ in model.named_parameters()])
        insert_label_embedding(model, LabelOverlay(model.num_classes, self.label_scale))
        insert_block_walls(model)
        insert_normalisation(model, SampleNorm())
        insert_goodness_heads(model, lambda block, shape: SquaredGoodness(self.goodness), model.plan[:-1])

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        x, batch = record.input, record.input.shape[0]
        with torch.no_grad(), phase("forward"):
            h = model.run_until_last(x)
        with torch.enable_grad(), phase("forward"):
            logits = model.run_last(h)
        error = yield Logits(logits)
        yield from local_gradients(model.blocks[-1].parameters(model), logits, error)
        del h, logits, error
        negative = wrong_labels(record.target, model.num_classes, record.counter * 2 + self.seed)
        inputs = [torch.cat([x, x]), torch.cat([record.target, negative])]
        for block in model.blocks[:-1]:
            with torch.enable_grad(), phase("forward"):
                h, goodness = block(model, *inputs)
            with torch.enable_grad(), phase("goodness"):
                margin = goodness - self._threshold(h)
                loss = (F.softplus(-margin[:batch]) + F.softplus(margin[batch:])).mean() * record.loss_scale
            inputs = [h.detach()]
            yield from local_gradients(block.parameters(model), loss)
            del h, goodness, margin, loss

    def _threshold(self, h: Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        return 1.0 if self.goodness == "mean" else float(h[0].numel())

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        if self.prediction == "head" or not model.has_learned:
            return model.run(x)
        return self.goodness_logits(model, x)

    def goodness_logits(self, model: RewrittenModel, x: Tensor) -> Tensor:
        """Goodness of each label ``(B, C)``, summed over the hidden blocks but the first (over the only one, if there is one)."""
        classes, batch = model.num_classes, x.shape[0]
        labels = torch.arange(classes, device=x.device).repeat_interleave(batch)
        inputs, total = [x.repeat(classes, *[1] * (x.ndim - 1)), labels], 0.0
        hidden = model.blocks[:-1]
        for block in hidden:
            h, goodness = block(model, *inputs)
            if block.index > 0 or len(hidden) == 1:
                total = total + goodness
            inputs = [h]
        return total.reshape(classes, batch).t()
