"""Sizes: of a layer's update, of its activity, of its input."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...graph.across_ranks import ranks, total

UpdateScale = Literal["positions", "root", "none", "activity"]


def update_factor(scale: UpdateScale, positions: int, difference: Tensor, error: Tensor) -> Tensor | float:
    """What a layer's ``h - h_err`` is multiplied by.

    With ``"activity"`` the difference is made as long as the error at the output (Euclidean, all samples together) and divided by the root
    of the positions: as an orthogonal backward pass would hand it down, so that depth, fan-in, and the size of F drop out. Only the
    direction of
    the layer's own activity is left, and a small F gives it at its most accurate (to first order in F).

    Args:
        positions: output positions that share the layer's weights. difference: ``h - h_err`` ``(B, ...)``. error: e ``(B, C)``.
    """
    if scale == "activity":
        tiny = torch.finfo(torch.float32).tiny ** 0.5
        return _length(error) / (_length(difference) + tiny) / math.sqrt(positions)
    return {"positions": 1.0 / positions, "root": positions**-0.5, "none": 1.0}[scale]


def _length(x: Tensor) -> Tensor:
    """Euclidean, of all samples together, those of other ranks included."""
    norm = x.float().norm()
    return norm if ranks().size == 1 else total(norm.square()).sqrt()


class SampleStandardise(nn.Module):
    """Each sample ``(B, ...)`` to mean 0 and variance 1 over all its values, whatever else is in the batch."""

    def forward(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[1:])


def input_magnitude(example: Tensor) -> float:
    """The power of two next to the root mean square, at least 1: 1 for pixels in 0..1 and standardised signals, about 128 for bytes."""
    rms = float(example.float().square().mean().sqrt())
    return 2.0 ** max(0, round(math.log2(rms))) if rms > 0 else 1.0
