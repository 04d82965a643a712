"""Noticing that one domain gives way to another, either of which may be drifted: the moments of what enters the layers that learn."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import LightningFwdError

_SMALLEST = 1e-8  #: variance


@dataclass
class DomainChange:
    """A batch whose channels differ from the domain's by more than a threshold opens another domain.

    The distance is the symmetric Kullback-Leibler divergence of normal distributions with the mean and variance of each channel, mean over
    the channels; those of the domain are a running mean over its batches (ZOA, arXiv 2508.02180). What is watched must not learn, or its
    learning is a change.

    Args:
        threshold: of the distance. weight: of a new batch in the running moments.

    Attributes:
        distance: of the last batch; 0 of a domain's first.
    """

    threshold: float = 0.1
    weight: float = 0.2
    distance: float = field(default=0.0, init=False)
    _moments: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @torch.no_grad()
    def see(self, features: Tensor) -> bool:
        """Whether a batch ``(B, C, ...)`` is of another domain than those before it; then it is the first of that.

        Raises:
            LightningFwdError: fewer than two values per channel, or values that are not finite.
        """
        channels = features.transpose(0, 1).flatten(1).double()
        if channels.shape[1] < 2 or not bool(channels.isfinite().all()):
            raise LightningFwdError(
                f"DomainChange: features of shape {tuple(features.shape)}" + (", not all finite" if channels.shape[1] > 1 else ""),
                "a mean and a variance of each channel are compared",
                "give batches of several finite values per channel; of few values chance alone is a distance above the threshold",
            )
        mean, variance = channels.mean(1), channels.var(1, correction=0)
        self.distance = 0.0
        if self._moments is not None:
            known_mean, known = self._moments
            apart = (mean - known_mean) ** 2
            both = (known + apart) / (2 * (variance + _SMALLEST)) + (variance + apart) / (2 * (known + _SMALLEST)) - 1
            self.distance = float(both.mean())
        if self._moments is None or self.distance > self.threshold:
            first, self._moments = self._moments is None, (mean, variance)
            return not first
        self._moments = known_mean.lerp(mean, self.weight), known.lerp(variance, self.weight)
        return False
