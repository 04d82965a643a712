"""A frozen body as device kernels for inference run it: int8 images, channels last, a scale per value and per filter.

``real = scale * (q - zero)``. Where learning layers read a value its scale is a power of two and its zero 0. Rescaling is that of the int8
kernels: ``value * multiplier * 2**(shift - 31)``, rounded twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import StepError
from .arithmetic import exact
from .operators import int8_like, operator


def rescale(value: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """int64 tensors; ``multiplier`` in Q31."""
    right = (-shift).clamp(min=0)
    high = ((value << shift.clamp(min=0)) * multiplier + (1 << 30)) >> 31
    mask = (1 << right) - 1
    rounded = (high >> right) + ((high & mask) > (mask >> 1) + (high < 0)).long()
    return torch.where(right > 0, rounded, high)


def as_rescale(factor: float) -> tuple[int, int]:
    """A positive factor as multiplier (Q31) and shift."""
    fraction, shift = math.frexp(factor)
    multiplier = round(math.ldexp(fraction, 31))
    return (multiplier, shift) if multiplier < 1 << 31 else (1 << 30, shift + 1)


def _bounded(y: Tensor, zero: int, relu: bool) -> Tensor:
    return (y + zero).clamp(zero if relu else -127 if zero == 0 else -128, 127)


_SAID = "int[] stride, int[] padding, int[] dilation, int groups, int in_zero, int zero, bool relu"


def _size(x: Tensor, kernel: list[int], out: int, stride: list[int], padding: list[int], dilation: list[int]) -> list[int]:
    top, left, bottom, right = padding
    spatial = [
        (n + p - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(x.shape[1:3], (top + bottom, left + right), kernel, stride, dilation, strict=True)
    ]
    return [x.shape[0], *spatial, out]


def _conv_like(x, weight, start, multiplier, shift, stride, padding, dilation, groups, in_zero, zero, relu):
    return x.new_empty(_size(x, list(weight.shape[1:3]), weight.shape[0], stride, padding, dilation))


@operator(f"int_body_conv(Tensor x, Tensor weight, Tensor start, Tensor multiplier, Tensor shift, {_SAID})", _conv_like)
def int_body_conv(x, weight, start, multiplier, shift, stride, padding, dilation, groups, in_zero, zero, relu):
    """``x (B, H, W, C)`` int8 by filters ``(out, kh, kw, C / groups)`` int8; ``padding``: top, left, bottom, right, by ``in_zero``.

    ``start (out,)`` int32: bias, less what ``in_zero`` adds to a sum.
    """
    kind, (top, left, bottom, right) = exact(128, 128, weight[0].numel()), padding
    image = F.pad(x.permute(0, 3, 1, 2).to(kind), (left, right, top, bottom), value=float(in_zero))
    acc = F.conv2d(image, weight.permute(0, 3, 1, 2).to(kind), None, stride, 0, dilation, groups).long() + start.long()[:, None, None]
    y = rescale(acc, multiplier.long()[:, None, None], shift.long()[:, None, None])
    return _bounded(y, zero, relu).permute(0, 2, 3, 1)


def _depthwise_like(x, weight, start, multiplier, shift, stride, padding, dilation, groups, in_zero, zero, relu):
    return x.new_empty(_size(x, list(weight.shape[1:3]), weight.shape[3], stride, padding, dilation))


@operator(f"int_body_depthwise(Tensor x, Tensor weight, Tensor start, Tensor multiplier, Tensor shift, {_SAID})", _depthwise_like)
def int_body_depthwise(x, weight, start, multiplier, shift, stride, padding, dilation, groups, in_zero, zero, relu):
    """As :func:`int_body_conv` with as many groups as channels: filters ``(1, kh, kw, out)``."""
    rows = weight.permute(3, 1, 2, 0)
    return int_body_conv(x, rows, start, multiplier, shift, stride, padding, dilation, groups, in_zero, zero, relu)


@operator("int_body_add(Tensor a, Tensor b, Tensor numbers, int zero, bool relu)", int8_like)
def int_body_add(a, b, numbers, zero, relu):
    """Sum of two values; ``numbers`` int32: two multipliers of 15 bits, what is added to the products, and the shift to the right."""
    of_a, of_b, offset, right = numbers.tolist()
    return _bounded((a.long() * of_a + b.long() * of_b + offset) >> right, zero, relu)


def _sums_like(x: Tensor, zero: int) -> Tensor:
    return x.new_empty([x.shape[0], x.shape[3]], dtype=torch.int32)


@operator("int_body_sums(Tensor x, int zero)", _sums_like)
def int_body_sums(x, zero):
    """Sums over the image of ``x (B, H, W, C)`` int8, less its zero: ``(B, C)`` int32."""
    return (x.long() - zero).sum((1, 2))


@operator("int_body_features(Tensor sums, Tensor start, Tensor multiplier, Tensor shift)", int8_like)
def int_body_features(sums, start, multiplier, shift):
    """Features ``(B, F)`` of sums, each rescaled by its own factor; ``start`` is added before."""
    return rescale(sums.long() + start.long(), multiplier.long(), shift.long()).clamp(-127, 127)


def _last(x: Tensor) -> Tensor:
    return x.new_empty([x.shape[0], *x.shape[2:], x.shape[1]])


def _first(x: Tensor) -> Tensor:
    return x.new_empty([x.shape[0], x.shape[3], *x.shape[1:3]])


@operator("int_channels_last(Tensor x)", _last)
def int_channels_last(x):
    """``(B, C, H, W)`` int8 to ``(B, H, W, C)``."""
    return x.permute(0, 2, 3, 1)


@operator("int_channels_first(Tensor x)", _first)
def int_channels_first(x):
    """``(B, H, W, C)`` int8 to ``(B, C, H, W)``."""
    return x.permute(0, 3, 1, 2)


# ---- constants, once the scales are known


@dataclass(frozen=True)
class Scale:
    """Whose scale: of an activation with an exponent (``exponent``: its state), or of a value of the body; ``zero`` of what is read."""

    key: str
    exponent: bool
    zero: int

    def of(self, floats: Mapping[str, Tensor], scales: Mapping[str, float]) -> float:
        return 2.0 ** -int(floats[self.key]) if self.exponent else scales[self.key]


@dataclass(frozen=True)
class BodyLayer:
    """A convolution of the body. Attributes: weight, bias: names of parameters. reads, gives: scales. geometry: for comparison."""

    weight: str
    bias: str
    reads: Scale
    gives: Scale
    depthwise: bool
    geometry: tuple

    def constants(self, floats: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
        w = floats[self.weight].detach().double()
        per_filter = w.abs().flatten(1).amax(1).clamp(min=2.0**-40) / 127
        read, given = self.reads.of(floats, scales), self.gives.of(floats, scales)
        bias = floats[self.bias].detach().double() if self.bias else torch.zeros(len(w), dtype=torch.float64)
        per_filter = torch.maximum(per_filter, bias.abs() / (read * (1 << 29)))  # a bias beside weights that are nearly zero
        shaped = per_filter.reshape(-1, 1, 1, 1)
        q = (w / shaped).round()
        start = (bias / (read * per_filter)).round() - self.reads.zero * q.flatten(1).sum(1)
        pairs = torch.tensor([as_rescale(float(s) * read / given) for s in per_filter], dtype=torch.int32)
        order = (1, 2, 3, 0) if self.depthwise else (0, 2, 3, 1)
        filters = q.permute(order).to(torch.int8).contiguous()
        return {"weight": filters, "start": start.to(torch.int32), "multiplier": pairs[:, 0].clone(), "shift": pairs[:, 1].clone()}


@dataclass(frozen=True)
class BodySum:
    """A residual sum of the body."""

    first: Scale
    second: Scale
    gives: Scale

    def constants(self, floats: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
        a, b, given = (s.of(floats, scales) for s in (self.first, self.second, self.gives))
        right = min(30, 15 - math.frexp(max(a, b) / given)[1])
        of_a, of_b = (min(round(math.ldexp(scale / given, right)), (1 << 15) - 1) for scale in (a, b))
        offset = (1 << right >> 1) - self.first.zero * of_a - self.second.zero * of_b
        return {"numbers": torch.tensor([of_a, of_b, offset, right], dtype=torch.int32)}


@dataclass(frozen=True)
class BodyFeatures:
    """What a head over blocks reads: averages of images of the body, standardised, side by side.

    Attributes:
        reads: scale, pixels and channels of each image. affine: the features, all averages being one number, from the model's tensors.
    """

    reads: tuple[tuple[Scale, int, int], ...]
    gives: Scale
    affine: Callable[[Mapping[str, Tensor], float], Tensor] = field(compare=False)

    def constants(self, floats: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
        """Raises StepError: a feature falls where its average rises, or does not depend on it."""
        offset, at_one = (self.affine(floats, value).double().flatten() for value in (0.0, 1.0))
        slope, given = at_one - offset, self.gives.of(floats, scales)
        if not bool((slope > 0).all()):
            raise StepError("a feature of the body does not rise with its average", "it is rescaled by a positive factor", "use widen_head")
        unit = torch.cat([torch.full((channels,), s.of(floats, scales) / pixels).double() for s, pixels, channels in self.reads])
        pairs = torch.tensor([as_rescale(float(factor)) for factor in slope * unit / given], dtype=torch.int32)
        start = (offset / (slope * unit)).round().clamp(-(1 << 29), 1 << 29).to(torch.int32)
        return {"start": start, "multiplier": pairs[:, 0].clone(), "shift": pairs[:, 1].clone()}
