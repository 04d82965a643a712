"""Int8 operators of our own, with their reference in PyTorch: what ``cortex_m`` has, with padding on four sides and exact at any size.

The references compute in float64, which holds every sum exactly (below 2**53) and which PyTorch has all convolutions for: its integer ones
lack dilation. Quantities follow CMSIS-NN: ``input_offset`` is minus the input's zero point, ``output_offset`` the output's zero point.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .ops import define


def requantise(value: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """``value * multiplier * 2**(shift - 31)`` in int64, rounded twice: half up in the high product, half away from zero in the right
    shift."""
    value, multiplier, shift = value.to(torch.int64), multiplier.to(torch.int64), shift.to(torch.int64)
    high = (value * (1 << shift.clamp(min=0)) * multiplier + (1 << 30)) >> 31
    right = (-shift).clamp(min=0)
    half = (1 << right) >> 1
    return (high + half - ((high < 0) & (right > 0)).to(torch.int64)) >> right


def _convolve(input, weight, bias, stride, padding, dilation, groups, offsets, multiplier, shift, bounds) -> Tensor:
    """``weight`` is (out, in per group, H, W); ``padding`` is (top, left, bottom, right)."""
    top, left, bottom, right = padding
    x = F.pad(input.double() + offsets[0], (left, right, top, bottom))  # a padded position is the zero point, hence 0 here
    sums = F.conv2d(x, weight.double(), None if bias is None else bias.double(), stride, 0, dilation, groups)
    per_channel = (1, -1, 1, 1)
    q = requantise(sums, multiplier.view(per_channel), shift.view(per_channel)) + offsets[1]
    return q.clamp(*bounds).to(torch.int8).to(memory_format=torch.channels_last)


def _convolved(input: Tensor, channels: int, kernel, stride, padding, dilation) -> Tensor:
    top, left, bottom, right = padding
    size = [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, before, after, d, k, s in zip(input.shape[2:], (top, left), (bottom, right), dilation, kernel, stride, strict=True)
    ]
    return input.new_empty((input.shape[0], channels, *size), dtype=torch.int8).to(memory_format=torch.channels_last)


_GEOMETRY = "Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, "
_SCALES = (
    "int input_offset, int output_offset, Tensor requantize_multipliers, Tensor requantize_shifts, "
    "int activation_min, int activation_max, Tensor scratch"
)


def _conv2d(input, weight, bias, stride, padding, dilation, in_offset, out_offset, multiplier, shift, low, high, scratch) -> Tensor:
    """``weight`` is (out, H, W, in per group)."""
    groups = input.shape[1] // weight.shape[3]
    oihw, offsets = weight.permute(0, 3, 1, 2), (in_offset, out_offset)
    return _convolve(input, oihw, bias, stride, padding, dilation, groups, offsets, multiplier, shift, (low, high))


define(
    f"quantized_conv2d({_GEOMETRY}{_SCALES})",
    _conv2d,
    lambda input, weight, bias, stride, padding, dilation, *rest: _convolved(
        input, weight.shape[0], weight.shape[1:3], stride, padding, dilation
    ),
)


def _depthwise(input, weight, bias, stride, padding, dilation, multiple, in_offset, out_offset, multiplier, shift, low, high, scratch):
    """``weight`` is (1, H, W, out), out = in * ``multiple``."""
    oihw, offsets = weight.permute(3, 0, 1, 2), (in_offset, out_offset)
    return _convolve(input, oihw, bias, stride, padding, dilation, input.shape[1], offsets, multiplier, shift, (low, high))


define(
    f"quantized_depthwise_conv2d({_GEOMETRY}int depth_multiplier, {_SCALES})",
    _depthwise,
    lambda input, weight, bias, stride, padding, dilation, *rest: _convolved(
        input, weight.shape[3], weight.shape[1:3], stride, padding, dilation
    ),
)


def _avg_pool2d(input, kernel_size, stride, padding, ceil_mode) -> Tensor:
    """The mean of int8 values, half away from zero, padding not counted (``cortex_m``'s reference rounds half to even, in float)."""
    mean = F.avg_pool2d(input.double(), kernel_size, stride, padding, ceil_mode, count_include_pad=False)
    rounded = torch.where(mean >= 0, (mean + 0.5).floor(), (mean - 0.5).ceil())
    return rounded.to(torch.int8).to(memory_format=torch.channels_last)


def _avg_pooled(input, kernel_size, stride, padding, ceil_mode) -> Tensor:
    shape = F.avg_pool2d(input.to(torch.float32), kernel_size, stride, padding, ceil_mode).shape
    return input.new_empty(shape).to(memory_format=torch.channels_last)


define("quantized_avg_pool2d(Tensor input, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode)", _avg_pool2d, _avg_pooled)
