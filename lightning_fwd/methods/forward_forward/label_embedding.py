"""Where the label enters: over the first values of the input, on top of it as a pattern, or beside it as planes.

Each takes the samples ``x (B, ...)`` and one or more labels per sample, ``label (kB, C)`` as rows of class weights (one-hot; ``1/C`` each
is the neutral label), and gives ``(kB, ...)``: label ``i`` belongs to sample ``i mod B``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...errors import RewriteError
from ...graph.phase import is_traced
from ...graph.priced_as import PricedAs
from ...graph.whole import is_whole
from .whole import label_overlay

_PRICED_AS = PricedAs(values="label embedding")


def repeat_samples(x: Tensor, label: Tensor) -> Tensor:
    """``(B, ...) -> (kB, ...)``, one sample per label; ``x`` itself for ``k = 1``."""
    k = label.shape[0] // x.shape[0]
    if x.ndim == 2 and not is_traced():  # quicker, and of rows the same
        return x if k == 1 else torch.cat([x] * k)
    return x if k == 1 else x.repeat(k, *[1] * (x.ndim - 1))


class LabelOverlay(nn.Module):
    """The label times ``scale``, written over the first C values of each sample (Hinton 2022, section 3.3)."""

    priced_as = _PRICED_AS

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, scale: float):
        super().__init__()
        values = math.prod(input_shape)
        if values <= num_classes:
            raise RewriteError(
                f"ForwardForward cannot write {num_classes} classes over {values} input values",
                "the overlay needs one value per class, and some of the sample must be left",
                "use ForwardForward(label='planes'), which leaves the input as it is",
            )
        self.num_classes, self.scale = num_classes, scale

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        if is_whole():
            return label_overlay(x, label, self.scale)
        rest = repeat_samples(x.flatten(1)[:, self.num_classes :], label)
        label = label if self.scale == 1.0 and not is_traced() else label * self.scale
        return torch.cat([label, rest], dim=1).reshape(-1, *x.shape[1:])


class LabelPattern(nn.Module):
    """A wave per class added to the whole input, so that every receptive field sees the label.

    After the spatially extended labels of Scodellaro et al. 2023 (arXiv 2312.14924). The waves are products of cosines over the positions
    (all dimensions after the channel; over the values of a flat input), mutually orthogonal, of mean square 1, times ``scale``.
    """

    priced_as = _PRICED_AS

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, scale: float):
        super().__init__()
        sizes = input_shape[1:] or input_shape
        if math.prod(sizes) <= num_classes:
            raise RewriteError(
                f"ForwardForward cannot make {num_classes} label patterns over {'x'.join(map(str, sizes))} positions",
                "a pattern needs positions to spread over, more than there are classes",
                "use ForwardForward(label='planes'), which needs no room",
            )
        waves = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).reshape(-1, len(sizes))
        # About a quarter of the finest frequency: periods of some 8 positions, which small receptive fields can tell apart.
        distance = ((waves / torch.tensor(sizes)).norm(dim=1) - 0.25).abs()
        patterns = []
        for wave in waves[distance.argsort(stable=True)[:num_classes]]:
            pattern = torch.ones(())
            for frequency, size in zip(wave.tolist(), sizes, strict=True):
                pattern = pattern[..., None] * torch.cos(math.pi * frequency * (torch.arange(size) + 0.5) / size)
            patterns.append(pattern / pattern.square().mean().sqrt())
        self.register_buffer("patterns", torch.stack(patterns).flatten(1) * scale, persistent=False)
        self.shape = sizes if len(input_shape) == len(sizes) else (1, *sizes)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        pattern = (label @ self.patterns).reshape(-1, *self.shape)
        return repeat_samples(x, label) + pattern


class LabelPlanes(nn.Module):
    """One constant input plane per class, with weights of its own in the first layer: added to that layer's output ``z (B, n, ...)``, with
    ``units_last`` ``(B, ..., n)``.

    What C further input channels would give (up to the border of a convolution) without touching the layer or the input, so any input has
    room: a spectrogram, an inertial window, two values. The samples go through the first layer once, whatever the number of labels. The
    weights are
    centred over the classes, so that the neutral label adds nothing.
    """

    priced_as = _PRICED_AS

    def __init__(self, channels: int, num_classes: int, scale: float, seed: int, units_last: bool = False):
        super().__init__()
        self.units_last = units_last
        weight = torch.randn(num_classes, channels, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter((weight - weight.mean(0)) * scale)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        ones = [1] * (z.ndim - 2)
        plane = (label @ self.weight).reshape(label.shape[0], *((*ones, -1) if self.units_last else (-1, *ones)))
        if label.shape[0] == z.shape[0]:
            return z + plane
        both = z[None] + plane.reshape(-1, *z.shape[:1], *plane.shape[1:])
        return both.flatten(0, 1)
