"""What each kind of drift does to a batch, and what its severity means.

Images are (B, C, H, W) with values 0..1 and stay in 0..1. Signals are (B, C, T), or (B, C, H, W) for spectrograms,
standardised, and are not clipped: a severity in "full scale" is then a severity in standard deviations. Five levels per
kind follow the idea of ImageNet-C (Hendrycks and Dietterich, ICLR 2019, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_fwd.data.sample_random import SampleRandom

SPIKE = 4.0  # impulse noise on a standardised signal: a reading of plus or minus four standard deviations


Apply = Callable[..., Tensor]  #: (x, severity, random) -> x


@dataclass(frozen=True)
class DriftKind:
    """One kind of drift.

    Attributes:
        apply: (x, severity, random) -> x, same shape.
        meaning: what the severity measures, in words that an error message can quote.
        low, high: the severities allowed, both included.
        identity: the severity that changes nothing.
        levels: the severities named 1 to 5.
        step: 0 for any real severity, 1 for whole numbers, 2 for odd ones. Whole numbers count pixels (or time steps).
        signals: whether it means anything on signals; a function where it does to them something else than `apply`.
        audio: whether it is of recordings (B, T), and of these only.
        others: whether `apply` takes other recordings (N, T) as a fourth argument.
    """

    apply: Apply
    meaning: str
    low: float
    high: float
    identity: float
    levels: Sequence[float]
    step: int = 0
    signals: Apply | bool = True
    audio: bool = False
    others: bool = False

    def apply_to(self, x: Tensor, severity: float, random: SampleRandom, signal: bool, others: Tensor | None = None) -> Tensor:
        """`apply`, or what takes its place on signals."""
        if self.others:
            return self.apply(x, severity, random, others)
        return (self.signals if signal and callable(self.signals) else self.apply)(x, severity, random)


def _noise(x: Tensor, sigma: float, random: SampleRandom) -> Tensor:
    return x + random.normal(*x.shape[1:]).mul_(sigma).to(x.dtype)


def _blur(x: Tensor, kernel: float, random: SampleRandom) -> Tensor:
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
    # Padding is not counted: the border keeps its brightness.
    return pool(x, int(kernel), stride=1, padding=int(kernel) // 2, count_include_pad=False)


def _contrast(x: Tensor, factor: float, random: SampleRandom) -> Tensor:
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, factor)  # a camera fades as a whole, colours included


def _contrast_of_channels(x: Tensor, factor: float, random: SampleRandom) -> Tensor:
    return torch.lerp(x.flatten(2).mean(2).view(*x.shape[:2], *[1] * (x.ndim - 2)), x, factor)  # of a signal, each is a sensor of its own


def _brightness(x: Tensor, offset: float, random: SampleRandom) -> Tensor:
    return x + offset


def _rotation(x: Tensor, degrees: float, random: SampleRandom) -> Tensor:
    height, width = x.shape[2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # affine_grid's coordinates span -1..1 along either side: the ratios keep the turn rigid on oblong images.
    theta = x.new_tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]])
    grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _gain_offset(x: Tensor, size: float, random: SampleRandom) -> Tensor:
    channels = (x.shape[1], *[1] * (x.ndim - 2))
    gain = random.shared_signs(*channels, name="gain").mul_(size).add_(1).to(x.dtype)
    return x * gain + random.shared_signs(*channels, name="offset").mul_(size / 2).to(x.dtype)


def _impulse_noise(x: Tensor, fraction: float, random: SampleRandom, low: float = 0.0, high: float = 1.0) -> Tensor:
    draw = random.uniform(*x.shape[1:])
    return x.masked_fill(draw < fraction / 2, low).masked_fill(draw > 1 - fraction / 2, high)


def _pixelation(x: Tensor, block: float, random: SampleRandom) -> Tensor:
    size = int(block)
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool1d
    coarse = pool(x, size, ceil_mode=True, count_include_pad=False)
    for axis in range(2, x.ndim):
        coarse = coarse.repeat_interleave(size, dim=axis).narrow(axis, 0, x.shape[axis])
    return coarse


def _shift(x: Tensor, steps: float, random: SampleRandom) -> Tensor:
    for axis in range(2, x.ndim):
        source = torch.arange(x.shape[axis], device=x.device).sub_(int(steps)).clamp_(0, x.shape[axis] - 1)
        x = x.index_select(axis, source)
    return x


def _occlusion(x: Tensor, fraction: float, random: SampleRandom) -> Tensor:
    sizes = x.shape[2:]
    hidden = torch.ones(len(x), *[1] * (x.ndim - 1), dtype=torch.bool, device=x.device)
    for axis, size in enumerate(sizes):
        length = round(size * fraction ** (1 / len(sizes)))
        start = (random.uniform(1, name=f"axis{axis}") * (size - length + 1)).long()
        place = torch.arange(size, device=x.device)
        inside = (place >= start) & (place < start + length)  # (B, size)
        hidden = hidden & inside.view(len(x), 1, *[size if other == axis else 1 for other in range(len(sizes))])
    return x.masked_fill(hidden, 0.0)


DRIFT_KINDS: dict[str, DriftKind] = {
    "noise": DriftKind(
        _noise, "standard deviation of Gaussian noise, in full scale", 0, 2, 0, (0.04, 0.06, 0.08, 0.09, 0.10)
    ),
    "blur": DriftKind(_blur, "side of the box filter in pixels, odd", 1, 63, 1, (3, 5, 7, 9, 11), step=2),
    "contrast": DriftKind(
        _contrast, "factor on the distance to the sample's mean (of each channel, for signals)", 0, 4, 1, (0.75, 0.5, 0.4, 0.3, 0.15),
        signals=_contrast_of_channels,
    ),
    "brightness": DriftKind(
        _brightness, "offset of every pixel, in full scale", -1, 1, 0, (0.05, 0.1, 0.15, 0.2, 0.3), signals=False
    ),
    "rotation": DriftKind(
        _rotation, "counter-clockwise turn of the picture in degrees", -180, 180, 0, (5, 10, 20, 30, 45), signals=False
    ),
    "gain_offset": DriftKind(
        _gain_offset,
        "s: each channel's gain becomes 1+s or 1-s and its offset +s/2 or -s/2 of full scale",
        0, 1, 0, (0.05, 0.1, 0.2, 0.3, 0.4),
    ),
    "impulse_noise": DriftKind(
        _impulse_noise, "fraction of values replaced by the extremes", 0, 1, 0, (0.01, 0.02, 0.03, 0.05, 0.07),
        signals=partial(_impulse_noise, low=-SPIKE, high=SPIKE),
    ),
    "pixelation": DriftKind(
        _pixelation, "side of the block in pixels that becomes one value", 1, 64, 1, (2, 3, 4, 5, 6), step=1
    ),
    "shift": DriftKind(
        _shift, "pixels that the picture moves right and down (time steps later), edge repeated",
        -64, 64, 0, (1, 2, 3, 4, 6), step=1,
    ),
    "occlusion": DriftKind(
        _occlusion, "fraction of the area (of the window) that reads zero, in one block per sample",
        0, 1, 0, (0.02, 0.05, 0.1, 0.2, 0.3),
    ),
}  # fmt: skip
