"""Mean and spread of a layer's channels, measured on an NPU that tells neither.

The NPU stores a convolution's result clamped to int8, mostly behind a ReLU, so the mean of what it stores is not the mean of the channel.
But gain and offset of a channel are records. Lowering the gain and lifting the offset brings the whole distribution between the clamps, and
the pooled output gives its mean; putting that mean on the lower clamp leaves the positive deviations, whose mean gives the spread. Both
sums are of integers. To resolve less than one step of a pooled output, images fall in four groups whose offset differs by a quarter of a
step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .affine import F32, Affine

#: the gain while the mean is measured: a channel may be four times as wide as int8
PROBING_GAIN = F32(0.25)
#: offsets of the groups, in steps
DITHER = (F32(-0.375), F32(-0.125), F32(0.125), F32(0.375))
#: spread below which a channel counts as constant, in steps; and the bounds of one correction of a gain
LEAST_SPREAD, LEAST_GAIN, MOST_GAIN = F32(0.05), F32(0.2), F32(5)
_LOWEST = -128


@dataclass(frozen=True)
class Statistics:
    """Of one layer's channels, float32 ``(C,)``, in steps of its int8 output from the zero point: mean, and mean positive deviation from
    it."""

    mean: np.ndarray
    spread: np.ndarray


#: gain, offset, images ``start..stop`` -> sum over these of the layer's pooled output ``(C,)``, int64
Probe = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]


def measure(affine: Affine, zero_point: int, probe: Probe, images: int) -> Statistics:
    """Measure a layer as it is now set, on ``images`` images: two inferences each."""
    total, gain = np.zeros_like(affine.gain), affine.gain * PROBING_GAIN
    centred = affine.offset * PROBING_GAIN + F32(-zero_point)
    for group, dither in enumerate(DITHER):
        start, stop = images * group // len(DITHER), images * (group + 1) // len(DITHER)
        sums = probe(gain, centred + dither, start, stop)
        total = total + (F32(sums) - F32(stop - start) * dither)
    mean = total / F32(images) / PROBING_GAIN
    sums = probe(affine.gain, affine.offset - mean + F32(_LOWEST - zero_point), 0, images)
    return Statistics(mean, F32(sums - _LOWEST * images) / F32(images))


def align(affine: Affine, now: Statistics, source: Statistics) -> None:
    """Set gain and offset so that a layer's channels have the source's mean and spread."""
    gain = np.minimum(np.maximum(source.spread / np.maximum(now.spread, LEAST_SPREAD), LEAST_GAIN), MOST_GAIN)
    affine.offset = gain * (affine.offset - now.mean) + source.mean
    affine.gain = affine.gain * gain
