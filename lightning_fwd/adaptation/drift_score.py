"""Noticing drift: how far the moments of a network's features have moved from the source's, as the exported library computes it.

The features are what the last linear layer reads. Each is standardised by the source and kept within -4..4. Their running means are
measured in the source's own spread, correlations included (the squared Mahalanobis distance per feature). One number for each input; above
the threshold something has drifted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LightningFwdError

REACH = 4.0  #: deviations beyond which a feature counts no more
_CHUNK = 250
_STREAMS = 400  #: of source samples, drawn to calibrate by
_RIDGE = 0.1  #: added to the variances: directions in which the source hardly varies would count for all


def last_linear(net: nn.Module) -> nn.Linear:
    """The layer whose inputs are watched.

    Raises:
        LightningFwdError: there is none.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise LightningFwdError(
            "no linear layer to watch", "drift is noticed by what the last one reads", "take a network that ends in one"
        )
    return layers[-1]


@torch.no_grad()
def features_of(net: nn.Module, x: Tensor) -> Tensor:
    """What the last linear layer reads ``(N, F)``, of inputs ``(N, ...)``."""
    seen: list[Tensor] = []
    hook = last_linear(net).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(1)))
    was = net.training
    net.eval()
    try:
        for part in x.split(_CHUNK):
            net(part)
    finally:
        hook.remove()
        net.train(was)
    return torch.cat(seen)


@dataclass(frozen=True)
class DriftScore:
    """The source's moments and the threshold.

    Attributes:
        mean, scale: of each feature, float32 ``(F,)``: it is standardised as ``(f - mean) * scale``.
        factor: lower triangle ``(F, F)`` whose product with its own transpose is the inverse of their covariances.
        weight: of a new input in the running means, about 2 over how many inputs they look back.
        threshold: above it something has drifted.
    """

    mean: np.ndarray
    scale: np.ndarray
    factor: np.ndarray
    weight: float
    threshold: float

    @classmethod
    def calibrated(
        cls, features: Tensor, *, false_alarms: float = 0.01, horizon: int = 200, window: int = 100, seed: int = 0
    ) -> DriftScore:
        """From features of the source ``(N, F)``: one half gives the moments, the other the threshold.

        Args:
            false_alarms: share of streams of so many (``horizon``) inputs without drift in which an alarm is raised.
            window: inputs that the running means look back. seed: of the halves and the streams.

        Raises:
            LightningFwdError: settings out of their range, or too few samples.
        """
        if not (0 < false_alarms < 1 and window >= 2 and horizon >= 1):
            raise LightningFwdError(
                f"false_alarms={false_alarms}, window={window}, horizon={horizon}", "", "use 0..1, at least 2, at least 1"
            )
        if len(features) < 4 * window:
            raise LightningFwdError(f"{len(features)} samples of the source", f"a window of {window} needs {4 * window}", "give more")
        draws = np.random.default_rng(seed)
        order = draws.permutation(len(features))
        known, other = (features.double().numpy()[part] for part in np.array_split(order, 2))
        mean, std = known.mean(0), known.std(0)
        scale = np.where(std > 1e-6 * np.abs(mean).max(initial=1e-12), 1 / np.maximum(std, 1e-30), 0.0)
        spread = np.cov((known - mean) * scale, rowvar=False) + _RIDGE * np.eye(len(mean))
        factor = np.linalg.cholesky(np.linalg.inv(spread))
        score = cls(*(part.astype(np.float32) for part in (mean, scale, factor)), float(np.float32(2 / (window + 1))), np.inf)
        highest = score.run(other[draws.integers(0, len(other), (horizon, _STREAMS))]).max(0)
        return cls(score.mean, score.scale, score.factor, score.weight, float(np.float32(np.quantile(highest, 1 - false_alarms))))

    def run(self, features: np.ndarray) -> np.ndarray:
        """The score after each of some inputs, in order, from no drift on; operation by operation as ``lfwd_drift.c``.

        Args:
            features: ``(N, F)``, or of several streams ``(N, S, F)``.

        Returns:
            ``(N,)`` or ``(N, S)``.
        """
        rows = np.asarray(features, np.float32)
        means, weight, scores = np.zeros(rows.shape[1:], np.float32), np.float32(self.weight), []
        for f in rows:
            z = np.nan_to_num(np.clip((f - self.mean) * self.scale, np.float32(-REACH), np.float32(REACH)))
            means += weight * (z - means)
            scores.append(np.square(means @ self.factor).mean(-1))
        return np.array(scores, np.float32)

    def first_alarm(self, features: np.ndarray) -> int | None:
        """After how many inputs the threshold is passed; None: never."""
        above = np.flatnonzero(self.run(features) > self.threshold)
        return int(above[0]) + 1 if len(above) else None
