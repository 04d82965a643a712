"""How often a network is right."""

from __future__ import annotations

import math

import torch


@torch.no_grad()
def accuracy(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int = 500) -> float:
    """Percent of samples classified right, eval mode; NaN where a prediction holds NaN, of which the largest is no answer."""
    network.eval()
    right = 0
    for xs, ys in zip(x.split(batch), y.split(batch), strict=True):
        logits = network(xs)
        if logits.isnan().any():
            return math.nan
        right += int((logits.argmax(1) == ys).sum())
    return 100.0 * right / len(y)
