"""Anomalies: what a network that was trained on normal samples cannot reconstruct, and from which score on a sample is none of them.

A sample's score is the mean squared difference of what the network reads and what it gives; a recording's the mean over its windows. The
threshold comes from scores of few normal samples: their logarithms are taken as normal, and the threshold is the one-sided prediction
bound for one more (Hahn, "Statistical intervals for a normal population", 1970): on average over samples that it was made from, the asked
share of normal ones lies above it, however few they were. A quantile of a gamma fit, as in the baselines of DCASE, or of the scores
themselves takes what few samples show for the truth and raises too many alarms (recipes/drift/README.md has both).

``lfwd_anomaly.c`` of the exporter does the same, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LightningFwdError

FEWEST = 8  #: scores that a threshold is made of
LEAST, MOST = 1e-4, 0.5  #: shares of false alarms that can be asked for
_CHUNK = 1000


@torch.no_grad()
def anomaly_scores(net: nn.Module, x: Tensor) -> Tensor:
    """Score of each sample ``(N, ...)``, or of recordings ``(R, W, ...)`` of W windows where the network reads such: ``(N,)``.

    Raises:
        LightningFwdError: the network gives something else than a reconstruction.
    """
    was = net.training
    net.eval()
    try:
        scores = [(require_reconstruction(net(part), part) - part).square().flatten(1).mean(1) for part in x.split(_CHUNK)]
    finally:
        net.train(was)
    return torch.cat(scores)


def recording_scores(net: nn.Module, windows: Tensor) -> Tensor:
    """Score of each recording ``(R,)`` from its windows ``(R, W, ...)``."""
    return anomaly_scores(net, windows.flatten(0, 1)).unflatten(0, windows.shape[:2]).mean(1)


def require_reconstruction(given: Tensor, read: Tensor) -> Tensor:
    """What a network gave, if it has the shape of what it read."""
    if given.shape != read.shape:
        raise LightningFwdError(
            f"a network that reads {tuple(read.shape)} and gives {tuple(given.shape)}",
            "an anomaly is found by what a network cannot reconstruct: it gives what it reads",
            "leave anomalies out, or take an autoencoder",
        )
    return given


@torch.no_grad()
def require_kind(net: nn.Module, x: Tensor, anomalies: bool) -> None:
    """Refuse a network of classes where anomalies are looked for, and one that reconstructs its inputs ``(B, ...)`` where they are not.

    Raises:
        LightningFwdError: so it is.
    """
    given = net(x[:1])
    if anomalies:
        require_reconstruction(given, x[:1])
    elif given.shape == x[:1].shape:
        raise LightningFwdError(
            f"{type(net).__name__} gives {tuple(given.shape)}, what it reads",
            "a network that reconstructs has no classes to learn from or to be judged by",
            "say anomalies: 0.05 in firmware, the share of normal samples that may be taken for anomalies",
        )


def source_threshold(net: nn.Module, source: Tensor | None, example: Tensor, false_alarms: float) -> float:
    """From which score on a sample is an anomaly at home.

    Args:
        source: normal inputs without drift ``(N, ...)``, or recordings of some windows each ``(N, W, ...)``. example: inputs ``(B, ...)``.

    Raises:
        LightningFwdError: none or too few are given.
    """
    if source is None:
        raise LightningFwdError("anomalies without inputs of the source", "its threshold is made of them", "give source=inputs")
    scores = recording_scores(net, source) if source.ndim > example.ndim else anomaly_scores(net, source)
    return NormalScores.of(scores).threshold(false_alarms)


@dataclass
class NormalScores:
    """What is known of normal scores.

    Attributes:
        count: of them. mean, squares: of their logarithms, and of the distances from that mean squared the sum; float32.
    """

    count: int = 0
    mean: np.float32 = np.float32(0)
    squares: np.float32 = np.float32(0)

    @classmethod
    def of(cls, scores: Tensor) -> NormalScores:
        """From scores ``(N,)``, in order."""
        found = cls()
        for score in scores.tolist():
            found.add(score)
        return found

    def add(self, score: float) -> None:
        """One more (Welford 1962); what is no positive finite number is left out."""
        score = np.float32(score)
        if not 0 < score < np.inf:
            return
        self.count += 1
        away = np.log(score) - self.mean
        self.mean += away / np.float32(self.count)
        self.squares += away * (np.log(score) - self.mean)

    def threshold(self, false_alarms: float) -> float:
        """Above it lies this share of normal samples.

        Raises:
            LightningFwdError: too few scores, or a share out of range.
        """
        if self.count < FEWEST or not LEAST <= false_alarms <= MOST:
            raise LightningFwdError(
                f"a threshold from {self.count} normal scores for {false_alarms:g} of false alarms",
                "",
                f"give {FEWEST} at least, and a share of {LEAST:g} to {MOST:g}",
            )
        others = np.float32(self.count - 1)
        spread = np.sqrt(self.squares / others) * np.sqrt(1 + 1 / np.float32(self.count))
        return float(np.exp(self.mean + student(np.float32(false_alarms), others) * spread))


def student(share: np.float32, freedom: np.float32) -> np.float32:
    """What a variable of Student's distribution exceeds with this chance, to 1 % for 7 degrees of freedom or more.

    Abramowitz and Stegun 1964, 26.2.23 (the normal one) and 26.7.5.
    """
    one = np.float32(1)
    t = np.sqrt(-2 * np.log(share))
    z = t - (np.float32(2.515517) + t * (np.float32(0.802853) + t * np.float32(0.010328))) / (
        one + t * (np.float32(1.432788) + t * (np.float32(0.189269) + t * np.float32(0.001308)))
    )
    s = z * z
    first = (s + 1) / 4
    second = ((5 * s + 16) * s + 3) / 96
    third = (((3 * s + 19) * s + 17) * s - 15) / 384
    fourth = ((((79 * s + 776) * s + 1482) * s - 1920) * s - 945) / 92160
    f = one / freedom
    return z * (one + f * (first + f * (second + f * (third + f * fourth))))


class Detector(nn.Module):
    """A reconstructing network behind a map of each band, which the stage ``statistics`` sets: means and deviations become the source's.

    The map is a batch norm with the source's own statistics, so at first it changes nothing. What cannot be reconstructed is told of the
    mapped input: the detector gives its input less that.

    Args:
        net: it shares its layers. source: normal inputs ``(N, places * bands)`` without drift. bands: values of a place that have a mean
            and a deviation each; the last index.
    """

    def __init__(self, net: nn.Module, source: Tensor, bands: int) -> None:
        super().__init__()
        self.width, self.band_count = source.shape[1], bands
        self.map = nn.BatchNorm1d(bands, eps=1e-5)
        rows = source.reshape(-1, bands)
        with torch.no_grad():
            self.map.running_mean.copy_(rows.mean(0))  # type: ignore[union-attr]
            self.map.running_var.copy_(rows.var(0))  # type: ignore[union-attr]
            self.map.weight.copy_((rows.var(0) + self.map.eps).sqrt())
            self.map.bias.copy_(rows.mean(0))
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, places * bands)`` to its reconstruction."""
        seen = self.map(x.reshape(-1, self.band_count)).reshape(-1, self.width)
        return x + self.net(seen) - seen
