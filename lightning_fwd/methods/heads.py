"""Goodness heads: what a block's activation says about each class, ``h (B, n, ...) -> (B, C)``; ``(B, ..., n)`` with ``units_last``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import RewriteError


class ProjectionHead(nn.Module):
    """One linear map of the activation, averaged over ``pool`` positions per dimension and flattened.

    Learned: Mono-Forward (Gong et al. 2025, arXiv 2501.09238); fixed random: TinyFoA (Huang & Aminifar, AAAI 2025).

    Args:
        shape: of the activation, batch first.
        learned: whether the map learns, or stays as drawn.
        units_last: whether the units lie in the last dimension (tokens), not in dimension 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        pool: int,
        generator: torch.Generator,
        learned: bool = True,
        units_last: bool = False,
    ):
        super().__init__()
        if pool < 1:
            raise RewriteError(f"pool={pool}", "a head sees so many positions per dimension", "use 1 or more")
        self.units_last = units_last
        units, positions = (shape[-1], shape[1:-1]) if units_last else (shape[1], shape[2:])
        spatial = [min(pool, size) for size in positions]
        self.pool = {0: nn.Identity, 1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[len(spatial)](
            *([spatial] if spatial else [])
        )
        features = units * torch.Size(spatial).numel()
        self.linear = nn.utils.skip_init(nn.Linear, features, num_classes)  # draws nothing from the global generator
        with torch.no_grad():
            self.linear.weight.uniform_(-1, 1, generator=generator).mul_(features**-0.5)
            self.linear.bias.zero_()
        self.linear.requires_grad_(learned)

    def pooled(self, h: Tensor) -> Tensor:
        """The features ``(B, m)`` that the linear map sees."""
        if h.ndim == 2:
            return h
        return self.pool(h.movedim(-1, 1) if self.units_last else h).flatten(1)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(self.pooled(h))


class ChannelGroups(nn.Module):
    """Channels in C groups, one per class; the goodness is each group's mean square (CwComp, Papachristodoulou et al., AAAI 2024, eq. 2) or
    mean
    activity (DeeperForward, Sun et al., ICLR 2025), over its channels and all positions. No weights.

    Args:
        temperature: factor on the goodness before the softmax.
        units_last: whether the channels lie in the last dimension (tokens), not in dimension 1.
    """

    def __init__(self, num_classes: int, goodness: Literal["mean_square", "mean"], temperature: float, units_last: bool = False):
        super().__init__()
        self.units_last = units_last
        self.num_classes, self.goodness, self.temperature = num_classes, goodness, temperature

    def forward(self, h: Tensor) -> Tensor:
        groups = (h.movedim(-1, 1) if self.units_last else h).reshape(h.shape[0], self.num_classes, -1)
        groups = groups.square() if self.goodness == "mean_square" else groups
        return groups.mean(2) * self.temperature
