"""What a block measures and what it hides from the next: goodness, per-sample normalisation, the ReLU's gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...graph.across_ranks import mean
from ...graph.whole import is_whole
from .whole import sample_norm

softplus_backward = torch.ops.aten.softplus_backward.default


class SampleNorm(nn.Module):
    """Each sample divided by its root mean square: keeps the direction of the activity, drops its length."""

    def forward(self, h: Tensor) -> Tensor:
        if is_whole():
            return sample_norm(h)
        dims = list(range(1, h.ndim))
        return h / (h.square().mean(dims, keepdim=True).sqrt() + 1e-8)


class SquaredGoodness(nn.Module):
    """``(B, ...) -> (B,)``: mean or sum over a sample's squared activations, in float32 whatever the precision of the activations.

    ``"spatial"``: ``(B, cells)``, the mean square of each cell of a grid over the positions, so that each part of a map has to tell
    positive from
    negative (after the spatial goodness of ASGE, 2025).

    Args:
        grid: cells per dimension. units_last: whether the units lie in the last dimension, not in dimension 1.
    """

    def __init__(self, reduction: Literal["mean", "sum", "spatial"], grid: int = 1, units_last: bool = False):
        super().__init__()
        self.reduction, self.grid, self.units_last = reduction, grid, units_last

    def forward(self, h: Tensor) -> Tensor:
        squared = h.float().square()
        if self.reduction == "spatial" and h.ndim > 2:
            maps = squared.mean(-1 if self.units_last else 1)  # (B, positions)
            pool = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[maps.ndim - 1]
            return pool(maps[:, None], [min(self.grid, size) for size in maps.shape[1:]]).flatten(1)
        squared = squared.flatten(1)
        return squared.sum(1) if self.reduction == "sum" else squared.mean(1, keepdim=self.reduction == "spatial")


class _PassThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        return z.clamp_min(0)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class PassThroughReLU(nn.Module):
    """ReLU whose gradient is 1 everywhere: units that are off can be pulled on (by peer normalisation)."""

    def forward(self, z: Tensor) -> Tensor:
        return _PassThrough.apply(z)


def peer_loss(h: Tensor, running_mean: Tensor, units_last: bool = False, momentum: float = 0.9) -> tuple[Tensor, Tensor]:
    """How far units (channels) are from the mean activity of their peers, and the new running mean ``(n,)``.

    ``mean((mean(r) - r)**2)`` with ``r = 0.9 r + 0.1 mean(h)`` over positive samples ``h (B, n, ...)``, with
    ``units_last`` ``(B, ..., n)``: no unit may sleep, none may always fire.
    """
    activity = mean(h.mean([*range(h.ndim - 1)] if units_last else [0, *range(2, h.ndim)]))
    new = running_mean * momentum + activity * (1 - momentum)
    return (new.mean() - new).square().mean(), new.detach()


def contrast(margin: Tensor, loss: Literal["threshold", "symmetric"], batch: int) -> Tensor:
    """The scalar loss of positive samples (first ``batch``) against negative ones, from ``sharpness * (goodness - theta)``.

    ``threshold``: ``softplus(-m_pos) + softplus(m_neg)`` (Hinton 2022); ``symmetric``: ``softplus(-(m_pos - m_neg))``, which no threshold
    enters
    (SymBa, Lee & Song 2023, arXiv 2303.08418).
    """
    positive, negative = margin[:batch], margin[batch:]
    if loss == "symmetric":
        return F.softplus(negative - positive).mean()
    return (F.softplus(-positive) + F.softplus(negative)).mean()


@torch.no_grad()
def contrast_error(
    h: Tensor, margin: Tensor, loss: Literal["threshold", "symmetric"], sharpness: float, scale: float, reduction: str
) -> Tensor:
    """The gradient of ``scale * contrast(margin)`` at the activations ``h (2B, ...)`` behind the margin ``(2B,)``.

    It has the bits that autograd gives; of small nets autograd's thirty operations for it take longer than all else.

    Args:
        reduction: ``"mean"`` or ``"sum"``, what made goodness of the squares.
    """
    batch = margin.shape[0] // 2
    positive, negative = margin[:batch], margin[batch:]
    share = margin.new_full((batch,), scale) / batch
    if loss == "symmetric":
        pull = softplus_backward(share, negative - positive, 1.0, 20.0)
        pull = torch.cat([-pull, pull])
    else:
        pull = torch.cat([-softplus_backward(share, -positive, 1.0, 20.0), softplus_backward(share, negative, 1.0, 20.0)])
    pull = pull if sharpness == 1.0 else pull * sharpness
    pull = pull / h[0].numel() if reduction == "mean" else pull
    return (pull * 2.0).reshape(-1, *[1] * (h.ndim - 1)) * h
