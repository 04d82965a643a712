"""Sparse update: backpropagation that stops at the deepest trained layer and trains only a part of the model.

Lin et al., "On-device training under 256KB memory", NeurIPS 2022 (arXiv 2206.15472).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..graph.errors import RewriteError
from ..graph.phase import phase
from ..graph.rewritten import RewrittenModel
from ..passes import insert_gradient_masks
from .backprop import gradients
from .base import LearningMethod, Logits, StepRecord, Updates, require_trainable


@dataclass
class SparseUpdate(LearningMethod):
    """Train the head, the biases, the last blocks or named modules; everything else is frozen.

    Autograd keeps no activation below the deepest trained layer, so memory and operations fall with the selection.

    Args:
        train: ``"head"`` (the last layer), ``"biases"`` (every bias, batch norm's shift included), an int k (the last k blocks and
            the head, which is the last block), or module paths.
        channels: fraction of input channels, by weight magnitude, of each trained weight that learns; the rest gets gradient 0.
        batch_norm: ``"freeze"`` keeps the stored statistics, ``"train"`` updates them.
    """

    forward_only: ClassVar[bool] = False
    train: Literal["head", "biases"] | int | Sequence[str] = "head"
    channels: float = 1.0
    batch_norm: Literal["freeze", "train"] = "freeze"
    granularity: str | int | Sequence[str] = "layer"

    def rewrite(self, model: RewrittenModel) -> None:
        if not 0.0 < self.channels <= 1.0:
            raise RewriteError(
                f"SparseUpdate: channels={self.channels}", "it is a fraction of input channels", "use 0 < channels <= 1"
            )
        selected = self.selected(model)
        require_trainable(model, sorted(selected))
        model.freeze({name for name, _ in model.named_parameters()} - selected)
        if self.channels < 1.0:
            insert_gradient_masks(model, _channel_masks(model, selected, self.channels))
            model.compile_inference()

    def selected(self, model: RewrittenModel) -> set[str]:
        """Names of the parameters to train."""
        names = [name for name, _ in model.named_parameters()]
        if self.train == "head":
            layers = [model.plan[-1].layers[-1]]
        elif self.train == "biases":
            return {name for name in names if name.rpartition(".")[2] == "bias"}
        elif isinstance(self.train, int):
            if not 1 <= self.train <= len(model.plan):
                raise RewriteError(
                    f"SparseUpdate: train={self.train} blocks, the model has {len(model.plan)}",
                    "",
                    "choose fewer, or another granularity",
                )
            layers = [path for block in model.plan[-self.train :] for path in block.layers]
        else:
            layers = list(self.train)
            unknown = [p for p in layers if not any(n == p or n.startswith(p + ".") for n in names)]
            if isinstance(self.train, str) or unknown:
                raise RewriteError(
                    f"SparseUpdate: train={self.train!r} names nothing with parameters",
                    'known: "head", "biases", a number of blocks, or a list of module paths',
                    f"layers of this model: {', '.join(p for b in model.plan for p in b.layers)}",
                )
        return {name for name in names if any(name == p or name.startswith(p + ".") for p in layers)}

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with torch.enable_grad(), phase("forward"):
            logits = model.run(record.input)
        error = yield Logits(logits)
        yield from gradients(model, logits, error)


def _channel_masks(model: RewrittenModel, selected: set[str], fraction: float) -> dict[str, torch.Tensor]:
    """1 for the input channels of largest weight norm, per layer; depthwise layers have one input channel and stay whole."""
    masks = {}
    for name in sorted(selected):
        weight = model.get_parameter(name).detach()
        if name.endswith("weight") and weight.ndim >= 2 and weight.shape[1] > 1:
            norms = weight.transpose(0, 1).flatten(1).norm(dim=1)
            keep = norms.topk(max(1, round(fraction * len(norms)))).indices
            mask = torch.zeros_like(norms).index_fill_(0, keep, 1.0)
            masks[name.removesuffix(".weight")] = mask.reshape(1, -1, *[1] * (weight.ndim - 2))
    return masks
