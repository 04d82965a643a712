"""Int8 operators of ExecuTorch's Cortex-M dialect, and the exporter's own padded convolution."""

from __future__ import annotations

import math

import numpy as np

from ..pte import Tensor
from .kernels import Context, kernel, number


def _nhwc(c: Context, t: Tensor) -> tuple[int, int, int, int]:
    """Sizes (N, H, W, C) of a tensor that lies channels-last in memory."""
    c.require(len(t.shape) == 4, f"a tensor has shape {t.shape}, expected 4 dimensions")
    n, channels, h, w = t.shape
    expected = (h * w * channels, 1, w * channels, channels)
    same = all(size == 1 or a == b for size, a, b in zip(t.shape, t.strides, expected, strict=True))
    c.require(same, f"a tensor of shape {t.shape} lies in dimension order {t.order}, the int8 kernel reads channels last")
    return n, h, w, channels


def _flat(c: Context, *tensors: Tensor) -> int:
    first = tensors[0]
    same = all(t.shape == first.shape and (t.strides == first.strides or t.count <= 1) for t in tensors)
    c.require(same, "operands differ in shape or layout: broadcasting is not supported in int8")
    return first.count


def _start(c: Context, weight: np.ndarray, k: int, input_offset: int) -> list[int]:
    """What each output's sum begins with: bias (argument ``k``) + input_offset * sum of its weights (``weight``: a row per output)."""
    bias = np.zeros(len(weight), np.int64) if c.arg(k) is None else _constant(c, k).astype(np.int64)
    c.require(bias.shape == (len(weight),), f"argument {k} does not match {len(weight)} channels")
    start = bias + input_offset * weight.sum(1)
    largest = np.abs(start) + 128 * np.abs(weight).sum(1)
    c.require(
        bool((largest < 2**31).all()),
        f"output {int(largest.argmax())} sums up to {int(largest.max())}, beyond 32 bits: its weights are nearly zero beside its bias",
    )
    return start.tolist()


def _narrow(weight: np.ndarray, start: list[int], shift: np.ndarray) -> int:
    """Whether the fast bodies may run: sums within 30 bits and their sign, right shifts."""
    largest = np.abs(np.array(start)) + 128 * np.abs(weight).sum(1)
    return int((largest < 2**30).all() and (shift <= 0).all())


def _constant(c: Context, k: int) -> np.ndarray:
    t = c.tensor(k)
    c.require(t.data is not None and t.arena is None, f"argument {k} is no constant, and int8 weights are summed up at export")
    c.require(t.ctype in ("int8_t", "int32_t"), f"argument {k} is {t.ctype}")
    return np.frombuffer(t.data, "i1" if t.ctype == "int8_t" else "<i4")


def _requantisation(c: Context, channels: int, multiplier: int, shift: int) -> np.ndarray:
    """The shifts, checked."""
    c.require(all(c.tensor(k).count == channels for k in (multiplier, shift)), f"requantisation does not match {channels} channels")
    values = _constant(c, shift)
    c.require(bool((np.abs(values) <= 31).all()), "a requantisation shift is beyond 31 bits")
    return values


def _range(c: Context, low: int, high: int) -> list[int]:
    c.require(-128 <= c.number(low) <= c.number(high) <= 127, "activation bounds are no int8 range")
    return [c.number(low), c.number(high)]


def _conv_fields(c: Context, weight_kc: tuple[int, int, int], pads: list[int], a: int) -> tuple[list[int], str]:
    """Fields of ``lfwd_conv2d_s8_params``; ``a`` is the position of stride among the arguments."""
    n, in_h, in_w, in_c = _nhwc(c, c.tensor(0))
    out_n, out_h, out_w, out_c = _nhwc(c, c.out)
    k_h, k_w, k_c = weight_kc
    stride, dilation = c.ints(a, 2), c.ints(a + 2, 2)
    c.require(min(*stride, *dilation, k_h, k_w, k_c) >= 1 and min(pads) >= 0 and n == out_n, "bad geometry")
    top, left, bottom, right = pads
    expected = [
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, before, after, d, k, s in zip((in_h, in_w), (top, left), (bottom, right), dilation, (k_h, k_w), stride, strict=True)
    ]
    c.require([out_h, out_w] == expected, f"output {c.out.shape} does not follow from the input")
    return [n, in_h, in_w, in_c, out_h, out_w, out_c, k_h, k_w, k_c, *stride, top, left, *dilation]


def _pads(c: Context, k: int) -> list[int]:
    pads = c.ints(k)
    c.require(len(pads) in (1, 2, 4), f"padding {pads}")
    return pads if len(pads) == 4 else (pads * 2 if len(pads) == 2 else pads * 4)


@kernel("cortex_m::quantized_conv2d.out", "lfwd::quantized_conv2d.out")
def _conv2d(c: Context) -> str:
    out_c, k_h, k_w, k_c = c.tensor(1).shape
    fields = _conv_fields(c, (k_h, k_w, k_c), _pads(c, 4), 3)
    c.require(fields[6] == out_c and fields[3] % k_c == 0 and out_c % (fields[3] // k_c) == 0, "channels do not match the weight")
    return _convolution(c, "lfwd_conv2d_s8", _constant(c, 1).reshape(out_c, -1), fields, 6)


@kernel("cortex_m::quantized_depthwise_conv2d.out", "lfwd::quantized_depthwise_conv2d.out")
def _depthwise(c: Context) -> str:
    one, k_h, k_w, out_c = c.tensor(1).shape
    fields = _conv_fields(c, (k_h, k_w, 1), _pads(c, 4), 3)
    c.require(one == 1 and fields[6] == out_c and out_c == fields[3] * c.number(6), "channels do not match the weight")
    return _convolution(c, "lfwd_depthwise_conv2d_s8", _constant(c, 1).reshape(-1, out_c).T, fields, 7)


def _convolution(c: Context, function: str, weight: np.ndarray, fields: list[int], a: int) -> str:
    """The call; ``a`` is the position of the input's offset, behind which both operators go on alike."""
    c.contiguous(c.tensor(1))
    weight = weight.astype(np.int64)
    start = _start(c, weight, 2, c.number(a))
    shift = _requantisation(c, len(weight), a + 2, a + 3)
    fields = [*fields, c.number(a), c.number(a + 1), *_range(c, a + 4, a + 5), _narrow(weight, start, shift)]
    scratch = c.tensor(a + 6)
    channels = f"{c.unit.constant('int32_t', start)}, {c.p(a + 2, 'int32_t')}, {c.p(a + 3, 'int32_t')}"
    tensors = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {channels}, {c.pointer(scratch)}, {scratch.nbytes}"
    return f"{function}({c.table('lfwd_conv2d_s8_params', fields)}, {tensors}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_linear.out")
def _linear(c: Context) -> str:
    x, weight = c.tensor(0), c.tensor(1)
    c.require(c.arg(3) is None, "kernel sums are precomputed; export for cortex-m4, which serves every board")
    c.contiguous(x, weight, c.out)
    out_features, in_features = weight.shape
    c.require(x.shape[-1:] == (in_features,) and c.out.shape == (*x.shape[:-1], out_features), "shapes do not match")
    multiplier, shift = c.ints(7, 1)[0], c.ints(8, 1)[0]
    c.require(-31 <= shift <= 31, "the requantisation shift is beyond 31 bits")
    matrix = _constant(c, 1).reshape(out_features, in_features).astype(np.int64) + c.number(5)
    start = _start(c, matrix, 2, c.number(4))
    narrow = _narrow(matrix, start, np.array([shift]))
    sizes = [x.count // in_features, in_features, out_features]
    fields = [*sizes, c.number(5), c.number(6), multiplier, shift, *_range(c, 10, 9), narrow]
    params, first = c.table("lfwd_linear_s8_params", fields), c.unit.constant("int32_t", start)
    return f"lfwd_linear_s8({params}, {c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {first}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_add.out")
def _add(c: Context) -> str:
    count = _flat(c, c.tensor(0), c.tensor(4), c.out)
    numbers = [c.number(k) for k in (1, 2, 3, 5, 6, 7, 8, 9, 10)]
    params = c.table("lfwd_add_s8_params", [*numbers, *_range(c, 11, 12)])
    return f"lfwd_add_s8({params}, {c.p(0, 'int8_t')}, {c.p(4, 'int8_t')}, {count}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_mul.out")
def _mul(c: Context) -> str:
    count = _flat(c, c.tensor(0), c.tensor(2), c.out)
    numbers = ", ".join(str(c.number(k)) for k in (4, 5, 6))
    operands = f"{c.p(0, 'int8_t')}, {c.number(1)}, {c.p(2, 'int8_t')}, {c.number(3)}"
    return f"lfwd_mul_s8({operands}, {numbers}, {count}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::maximum.out", "cortex_m::minimum.out")
def _extremum(c: Context) -> str:
    count = _flat(c, c.tensor(0), c.tensor(1), c.out)
    name = "maximum" if "maximum" in c.call.operator else "minimum"
    return f"lfwd_{name}_s8({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {count}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_activation.out")
def _activation(c: Context) -> str:
    c.require(c.tensor(1).count == 256, "the table has no 256 entries")
    count = _flat(c, c.tensor(0), c.out)
    return f"lfwd_lookup_s8({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {count}, {c.pointer(c.out, 'int8_t')})"


def _pool(c: Context, function: str, act: list[int]) -> str:
    n, in_h, in_w, channels = _nhwc(c, c.tensor(0))
    _, out_h, out_w, out_c = _nhwc(c, c.out)
    kernel_size, stride, padding = c.ints(1, 2), c.ints(2) or c.ints(1), c.ints(3, 2)
    stride = stride * 2 if len(stride) == 1 else stride
    c.require(min(*kernel_size, *stride) >= 1 and min(padding) >= 0 and out_c == channels, "bad geometry")
    fits = (out_h - 1) * stride[0] - padding[0] < in_h and (out_w - 1) * stride[1] - padding[1] < in_w
    c.require(fits and all(2 * p <= k for p, k in zip(padding, kernel_size, strict=True)), "windows outside the image")
    fields = [n, in_h, in_w, channels, out_h, out_w, *kernel_size, *stride, *padding, *act]
    params = c.table("lfwd_pool_s8_params", fields)
    return f"{function}({params}, {c.p(0, 'int8_t')}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_avg_pool2d.out", "lfwd::quantized_avg_pool2d.out")
def _avg_pool(c: Context) -> str:
    return _pool(c, "lfwd_avg_pool2d_s8", [-128, 127])


@kernel("cortex_m::quantized_max_pool2d.out")
def _max_pool(c: Context) -> str:
    c.require(c.ints(4) in ([1], [1, 1]) and c.number(6) == c.number(7), "dilated or requantising max pool")
    return _pool(c, "lfwd_max_pool2d_s8", _range(c, 8, 9))


@kernel("cortex_m::pad.out")
def _pad(c: Context) -> str:
    x, out = c.tensor(0), c.out
    before, after = c.ints(1, 4), c.ints(2, 4)
    # of one channel, or one pixel, both layouts are the same memory: there the dialect counts channels last
    last = len(x.shape) == 4 and (x.shape[1] == 1 or x.shape[2:] == (1, 1))
    order = (0, 2, 3, 1) if last else x.order
    sizes = [1] * (4 - len(x.shape)) + [x.shape[d] for d in order]
    c.require(min(before + after) >= 0 and (last or x.order == out.order), "negative padding or another layout")
    total = math.prod(n + b + a for n, b, a in zip(sizes, before, after, strict=True))
    c.require(total == out.count and -128 <= c.number(3) <= 127, "padding does not fit the output")
    lists = ", ".join(f"(const int32_t[4]){{{', '.join(map(str, v))}}}" for v in (sizes, before, after))
    return f"lfwd_pad_s8({c.p(0, 'int8_t')}, {lists}, {c.number(3)}, {c.pointer(out, 'int8_t')})"


@kernel("cortex_m::quantize_per_tensor.out")
def _quantize(c: Context) -> str:
    count = _flat(c, c.tensor(0), c.out)
    c.require(c.number(1) > 0, "scale must be positive")
    c.require(-128 <= c.number(3) <= c.number(2) <= c.number(4) <= 127, "zero point or bounds outside int8")
    numbers = f"{number(c.number(1), 'float')}, {c.number(2)}, {c.number(3)}, {c.number(4)}"
    return f"lfwd_quantize_s8({c.p(0, 'float')}, {count}, {numbers}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::dequantize_per_tensor.out")
def _dequantize(c: Context) -> str:
    count = _flat(c, c.tensor(0), c.out)
    return f"lfwd_dequantize_s8({c.p(0, 'int8_t')}, {count}, {number(c.number(1), 'float')}, {c.number(2)}, {c.pointer(c.out, 'float')})"


@kernel("cortex_m::softmax.out")
def _softmax(c: Context) -> str:
    x = c.tensor(0)
    c.contiguous(x, c.out)
    c.require(c.number(1) in (-1, len(x.shape) - 1) and c.number(3) == -128, "only over the last dimension")
    scale = c.number(4) / 2**31 * 2.0 ** c.number(5) / 2**26
    columns = x.shape[-1]
    return f"lfwd_softmax_s8({c.p(0, 'int8_t')}, {x.count // columns}, {columns}, {number(scale, 'float')}, {c.pointer(c.out, 'int8_t')})"
