"""What zeroth order makes of each direction's loss: losses by their value alone, and ranks in their place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def entropy(logits: Tensor, _target: Tensor | None = None) -> Tensor:
    """Of the predictions ``(B, C)``, mean over the samples; needs no label (Wang et al., "Tent", ICLR 2021)."""
    logarithms = F.log_softmax(logits, 1)
    return -(logarithms.exp() * logarithms).sum(1).mean()


def error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """Share of the samples where another class is above the label's; its gradient is zero wherever there is one."""
    return (logits.amax(1, keepdim=True) > logits.gather(1, target[:, None])).to(logits.dtype).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": F.cross_entropy, "error_rate": error_rate, "entropy": entropy}
NEED_LABELS = ("cross_entropy", "error_rate")


def ranks(changes: Tensor) -> Tensor:
    """By how many places each loss stands above the unperturbed one, all of them in order, as a share of their number.

    ``(rank_i - rank_0) / k`` with equal losses in the middle of their places: the centred ranks in -0.5..0.5 of Salimans et al. 2017, less
    that of the unperturbed loss. Any rising function of the losses gives the same.

    Args:
        changes: losses less the unperturbed one ``(k,)``.

    Returns:
        ``(k,)``, from -1 (the best of all) to 1.
    """
    every = torch.cat([torch.zeros_like(changes[:1]), changes])
    above = every[:, None] > every[None, :]
    places = above.sum(1) - above.sum(0)  # twice the rank, but for what all have in common
    return (places[1:] - places[0]).to(changes.dtype) * (0.5 / len(changes))
