"""Dynamic sparsity of the error: of each layer's output channels only those with the largest error are propagated.

After Rüb et al., "TinyProp: adaptive sparse backpropagation for efficient TinyML on-device learning", 2023 (arXiv 2308.09201): the fraction
rises with the layer's total error. There single neurons are chosen; here whole output channels (of a linear layer: neurons), so that dense
kernels save both the weight's and the input's gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...graph.across_ranks import mean
from ...graph.constants import INSERTED
from ...graph.step import Update

if TYPE_CHECKING:
    from ...graph.rewritten import RewrittenModel
    from .layers import Affine, Stage


class ErrorSparsity(nn.Module):
    """Per layer the largest total error seen, and the density of the last step (buffers, for logging).

    With Y the sum of the layer's absolute errors and Y_max the largest Y so far, the fraction of channels kept is
    ``low + (high - low) Y / Y_max``. The step's shapes are those of ``high``, its worst case: channels beyond the adapted number are zero,
    and a kernel that skips zeros gains what ``density`` says.
    """

    def __init__(self, low: float, high: float, layers: list[str]):
        super().__init__()
        self.low, self.high = low, high
        for path in layers:
            key = path.replace(".", "/")
            self.register_buffer(f"{key}/largest", torch.zeros(()))
            self.register_buffer(f"{key}/density", torch.ones(()))

    def applies_to(self, stage: Stage) -> bool:
        return f"{stage.path.replace('.', '/')}/density" in self._buffers

    def select(self, stage: Affine, grad: Tensor) -> tuple[Tensor, Tensor, list[Update]]:
        """The output channels that keep their error, that error, and the updates of the layer's two buffers."""
        axis, key = stage.channel_axis % grad.ndim, stage.path.replace(".", "/")
        count = grad.shape[axis]
        sizes = mean(grad.abs().sum([d for d in range(grad.ndim) if d != axis]))
        name = f"{INSERTED}.error_sparsity.{key}"
        total = sizes.sum()
        old = getattr(self, f"{key}/largest")
        largest = torch.maximum(old, total)
        fraction = self.low + (self.high - self.low) * total / largest.clamp_min(1e-30)
        most = math.ceil(self.high * count)
        keep = torch.clamp(torch.ceil(fraction * count), 1, most)
        rows = sizes.topk(most).indices  # largest first, so the first `keep` of them are the adapted choice
        chosen = (torch.arange(most, device=grad.device) < keep).to(grad.dtype)
        shape = [1] * grad.ndim
        shape[axis] = most
        updates = [
            Update(f"{name}/largest", old, value=largest),
            Update(f"{name}/density", getattr(self, f"{key}/density"), value=keep / count),
        ]
        return rows, grad.index_select(axis, rows) * chosen.reshape(shape), updates

    def needed(self, model: RewrittenModel) -> dict[str, float]:
        """Of the channels that a layer's step has room for, the fraction that the last step propagated."""
        counts = {path: model.get_submodule(path).weight.shape[0] for path in self.densities()}
        return {path: d * counts[path] / math.ceil(self.high * counts[path]) for path, d in self.densities().items()}

    def densities(self) -> dict[str, float]:
        """Fraction of output channels that each layer propagated in the last step."""
        return {n.rpartition("/")[0].replace("/", "."): float(b) for n, b in self._buffers.items() if n.endswith("density")}
