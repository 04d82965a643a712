"""Convolution, pooling and elementwise operations as their registers describe them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad

from ..records import RECORD
from .memory import Memory, NotSimulated, signed
from .weights import decode_weights, stream_order

Registers = Mapping[str, int]
_MAX, _AVERAGE = 0, 1
_MULTIPLY, _ADD, _SUBTRACT, _MINIMUM, _MAXIMUM = range(5)
_SCALE_BOTH, _SCALE_FIRST = 0, 1
_NATURAL = 2
#: IFM_UPSCALE 1: every position of the input stands for two rows and two columns
_NEAREST = 2
#: an operand of an addition that is not scaled itself stands that many bits higher
_UNSCALED_SHIFT = 19
#: a scale that is 1 to that many bits copies 8-bit values, however it rounds
_COPIES = 16
#: sums of products of 8-bit values up to that size are exact in float32
_EXACT_FLOAT = 2**24


def convolve(memory: Memory, r: Registers, depthwise: bool, accelerator: str, cache: dict[tuple, Tensor]) -> None:
    """Convolution of all output channels, requantised by their records."""
    height, width, depth = _output_shape(r)
    (kernel_h, kernel_w), (stride_h, stride_w) = _kernel(r)
    if r["KERNEL_STRIDE"] & 0x18 or r.get("IFM_UPSCALE"):
        raise NotSimulated(f"a convolution with KERNEL_STRIDE {r['KERNEL_STRIDE']:#x}, IFM_UPSCALE {r.get('IFM_UPSCALE')}")
    padding = _padding(r)
    axes = zip((height, width), (stride_h, stride_w), (kernel_h, kernel_w), padding, strict=True)
    rows, columns = ((n - 1) * stride + k - before - after for n, stride, k, (before, after) in axes)
    weight = _weights(memory, r, depthwise, accelerator, cache)
    image = memory.read(r, "IFM", rows, columns, r["IFM_DEPTH_M1"] + 1, weight.dtype).permute(0, 3, 1, 2)
    if any(map(any, padding)):
        image = pad(image, (*padding[1], *padding[0]))
    sums = conv2d(image, weight, stride=(stride_h, stride_w), groups=depth if depthwise else 1)
    bias, scale, shift = _records(memory.constant(r["SCALE_REGION"], r["SCALE_BASE"], RECORD * depth))
    memory.write(r, _scaled(r, sums.permute(0, 2, 3, 1).to(torch.int64), scale, shift, bias))


def pool(memory: Memory, r: Registers, mode: int) -> None:
    """Maximum or average over a window."""
    height, width, depth = _output_shape(r)
    kernel, stride = _kernel(r)
    padding = _padding(r)
    if mode not in (_MAX, _AVERAGE) or r.get("IFM_UPSCALE", 0) > 1 or any(map(any, padding)):
        raise NotSimulated(f"pooling of kind {mode} with padding {padding}, IFM_UPSCALE {r.get('IFM_UPSCALE')}")
    repeat = _NEAREST if r.get("IFM_UPSCALE") == 1 else 1
    size = (((n - 1) * s + k) // repeat for n, s, k in zip((height, width), stride, kernel, strict=True))
    image = memory.read(r, "IFM", *size, depth, _exact(kernel[0] * kernel[1])).permute(0, 3, 1, 2)
    if repeat > 1:
        image = image.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)
    if mode == _MAX:
        memory.write(r, max_pool2d(image, kernel, stride).permute(0, 2, 3, 1).to(torch.int64))
        return
    sums = avg_pool2d(image, kernel, stride, divisor_override=1).permute(0, 2, 3, 1).to(torch.int64)
    memory.write(r, _scaled_by(r, "OFM_SCALE", sums))


def add_or_multiply(memory: Memory, r: Registers, mode: int) -> None:
    """Sum, difference, product, minimum or maximum of two feature maps, of which the second may be a scalar or spread."""
    height, width, depth = _output_shape(r)
    spread = r["IFM2_BROADCAST"]
    dtype = torch.int64 if mode in (_ADD, _SUBTRACT) else torch.int32
    first = memory.read(r, "IFM", height, width, depth, dtype)
    if spread & 0x80:
        second = torch.tensor(signed(r["IFM2_SCALAR"]) - signed(r["IFM2_ZERO_POINT"]), dtype=dtype)
    else:
        size = (1 if spread >> bit & 1 else n for bit, n in enumerate((height, width, depth)))
        second = memory.read(r, "IFM2", *size, dtype)
    a, b = (second, first) if spread & 0x40 else (first, second)
    if mode == _MULTIPLY:
        memory.write(r, _scaled_by(r, "OFM_SCALE", (a * b).to(torch.int64)))
    elif mode in (_ADD, _SUBTRACT):
        scaled = r["IFM_PRECISION"] >> 8 & 3
        if scaled == _SCALE_BOTH:
            a, b = a * (r["OPA_SCALE"] & 0xFFFFFFFF), b * (r["OPB_SCALE"] & 0xFFFFFFFF)
        elif scaled == _SCALE_FIRST:
            a, b = _by_operand_scale(r, a), b << _UNSCALED_SHIFT
        else:
            a, b = a << _UNSCALED_SHIFT, _by_operand_scale(r, b)
        memory.write(r, _scaled_by(r, "OFM_SCALE", a + b if mode == _ADD else a - b))
    elif mode in (_MINIMUM, _MAXIMUM):
        memory.write(r, torch.minimum(a, b) if mode == _MINIMUM else torch.maximum(a, b))
    else:
        raise NotSimulated(f"elementwise operation {mode}")


def _by_operand_scale(r: Registers, values: Tensor) -> Tensor:
    scale, shift = r["OPA_SCALE"] & 0xFFFFFFFF, r["OPA_SCALE"] >> 32 & 0x3F
    return (values * scale + (1 << shift >> 1)) >> shift


def _scaled_by(r: Registers, register: str, values: Tensor) -> Tensor:
    scale, shift = r[register] & 0xFFFFFFFF, r[register] >> 32 & 0x3F
    return _scaled(r, values, torch.tensor(scale), torch.tensor(shift))


def _scaled(r: Registers, values: Tensor, scale: Tensor, shift: Tensor, bias: Tensor | int = 0) -> Tensor:
    """``(values + bias) * scale / 2**shift``, halves upwards; in place, for speed."""
    one = torch.ones_like(shift) << shift
    if r["OFM_PRECISION"] >> 14 & 3 != _NATURAL and not bool(((scale - one).abs() << _COPIES <= one).all()):
        raise NotSimulated(f"OFM_PRECISION {r['OFM_PRECISION']:#x}: only rounding of halves upwards is known")
    return values.mul_(scale).add_(bias * scale + (one >> 1)).bitwise_right_shift_(shift)


def _exact(products: int) -> torch.dtype:
    """Of floats in which sums of so many products of 8-bit values are exact."""
    return torch.float32 if products * 255 * 128 < _EXACT_FLOAT else torch.float64


def _records(data: bytes) -> tuple[Tensor, Tensor, Tensor]:
    """Bias, scale and shift of U55 records, each int64 ``(C,)``."""
    raw = np.frombuffer(data, np.uint8).reshape(-1, RECORD).astype(np.int64)
    bias = raw[:, :5] @ (1 << 8 * np.arange(5))
    bias -= (bias >> 39) << 40
    return torch.from_numpy(bias), torch.from_numpy(raw[:, 5:9] @ (1 << 8 * np.arange(4))), torch.from_numpy(raw[:, 9] & 0x3F)


def _weights(memory: Memory, r: Registers, depthwise: bool, accelerator: str, cache: dict[tuple, Tensor]) -> Tensor:
    """``(out, in, height, width)``, decoded once per content, in a type in which its sums are exact."""
    data = memory.constant(r["WEIGHT_REGION"], r["WEIGHT_BASE"], r["WEIGHT_LENGTH"])
    kernel, _ = _kernel(r)
    out_channels, in_channels = r["OFM_DEPTH_M1"] + 1, 1 if depthwise else r["IFM_DEPTH_M1"] + 1
    key = (data, out_channels, kernel, in_channels, r["OFM_BLK_DEPTH_M1"] + 1, depthwise, bool(r["KERNEL_STRIDE"] & 4))
    if key not in cache:
        order = stream_order(accelerator, *key[1:])
        weights = decode_weights(data, order, (out_channels, *kernel, in_channels))
        weights = torch.from_numpy(weights).permute(0, 3, 1, 2)
        cache[key] = weights.to(_exact(weights[0].numel()), memory_format=torch.contiguous_format)
    return cache[key]


def _output_shape(r: Registers) -> tuple[int, int, int]:
    return r["OFM_HEIGHT_M1"] + 1, r["OFM_WIDTH_M1"] + 1, r["OFM_DEPTH_M1"] + 1


def _kernel(r: Registers) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of kernel and stride. A stride's lowest bit stands apart from the others."""
    word = r["KERNEL_STRIDE"]
    stride_w, stride_h = 1 + (word & 1) + ((word >> 6 & 7) << 1), 1 + (word >> 1 & 1) + ((word >> 9 & 7) << 1)
    return (r["KERNEL_HEIGHT_M1"] + 1, r["KERNEL_WIDTH_M1"] + 1), (stride_h, stride_w)


def _padding(r: Registers) -> tuple[tuple[int, int], tuple[int, int]]:
    return (r["IFM_PAD_TOP"], r["IFM_PAD_BOTTOM"]), (r["IFM_PAD_LEFT"], r["IFM_PAD_RIGHT"])
