"""Noticing that one domain gives way to another, either of which may be drifted: the moments of what enters the layers that learn."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import LightningFwdError
from ..settings import check_settings

_SMALLEST = 1e-8  #: added to each variance before it is compared: constant channels (ReLUs that are dead) are 0 apart, not -1


@dataclass
class DomainChange:
    """A batch whose channels differ from the domain's by more than a threshold opens another domain.

    The distance is the symmetric Kullback-Leibler divergence of normal distributions with the mean and variance of each channel, mean over
    the channels; those of the domain are a running mean over its batches (ZOA, arXiv 2508.02180). It is never negative. A channel that is
    constant and stays so counts among them with 0. What is watched must not learn, or its learning is a change.

    Args:
        threshold: of the distance, from 0. weight: of a new batch in the running moments, from 0 (the first batch stays) to 1 (the last).

    Attributes:
        distance: of the last batch; 0 of a domain's first.

    Raises:
        LightningFwdError: a setting that is no number in its range.
    """

    threshold: float = 0.1
    weight: float = 0.2
    distance: float = field(default=0.0, init=False)
    _moments: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, not_negative=("threshold", "weight"))
        if self.weight > 1:
            raise LightningFwdError(f"DomainChange: weight={self.weight!r}", "a share of the new batch", "give a number from 0 to 1")

    @torch.no_grad()
    def see(self, features: Tensor) -> bool:
        """Whether a batch ``(B, C, ...)`` is of another domain than those before it; then it is the first of that.

        Raises:
            LightningFwdError: no channels, fewer than two values per channel, values that are not finite, or other channels than before;
                nothing of it is remembered.
        """
        shape = tuple(features.shape)
        several = len(shape) > 1 and shape[1] > 0 and features.numel() // shape[1] > 1
        if not several or not bool(features.isfinite().all()):
            raise LightningFwdError(
                f"DomainChange: features of shape {shape}" + (", not all finite" if several else ""),
                "a mean and a variance of each channel are compared",
                "give batches (B, C, ...) of several finite values per channel; of few chance alone is a distance above the threshold",
            )
        channels = features.transpose(0, 1).flatten(1).double()
        if self._moments is not None and len(self._moments[0]) != len(channels):
            raise LightningFwdError(
                f"DomainChange: features with {len(channels)} channels after some with {len(self._moments[0])}",
                "each channel is compared with itself in the batches before",
                "show it one layer's features; make another DomainChange for another layer",
            )
        mean, variance = channels.mean(1), channels.var(1, correction=0)
        self.distance = 0.0
        if self._moments is not None:
            known_mean, known = self._moments
            apart, here, there = (mean - known_mean) ** 2, variance + _SMALLEST, known + _SMALLEST
            # KL(p, q) + KL(q, p) = (a + d)/2b + (b + d)/2a - 1 = ((a - b)^2 + d (a + b)) / 2ab of variances a, b and squared means apart d
            self.distance = float((((here - there) ** 2 + apart * (here + there)) / (2 * here * there)).mean())
        if self._moments is None or self.distance > self.threshold:
            first, self._moments = self._moments is None, (mean, variance)
            return not first
        self._moments = known_mean.lerp(mean, self.weight), known.lerp(variance, self.weight)
        return False
