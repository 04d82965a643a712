"""Int8 operators of ExecuTorch's Cortex-M dialect, and the exporter's own padded convolution."""

from __future__ import annotations

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


def _per_channel(c: Context, channels: int, *arguments: int) -> str:
    for k in arguments:
        c.require(c.arg(k) is None or c.tensor(k).count == channels, f"argument {k} does not match {channels} channels")
    return ", ".join(c.p(k, "int32_t") for k in arguments)


def _shifts_in_range(c: Context, k: int) -> None:
    t = c.tensor(k)
    c.require(t.data is not None, "shifts are no constant")
    values = [int.from_bytes(t.data[i : i + 4], "little", signed=True) for i in range(0, len(t.data), 4)]
    c.require(all(-31 <= v <= 31 for v in values), "a requantisation shift is beyond 31 bits")


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
    weight = c.tensor(1)
    c.contiguous(weight)
    out_c, k_h, k_w, k_c = weight.shape
    fields = _conv_fields(c, (k_h, k_w, k_c), _pads(c, 4), 3)
    c.require(fields[6] == out_c and fields[3] % k_c == 0 and out_c % (fields[3] // k_c) == 0, "channels do not match the weight")
    _shifts_in_range(c, 9)
    params = c.table("lfwd_conv2d_s8_params", [*fields, c.number(6), c.number(7), *_range(c, 10, 11)])
    channels = _per_channel(c, out_c, 2, 8, 9)
    scratch = c.tensor(12)
    pointers = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {channels}, {c.pointer(scratch)}, {scratch.nbytes}"
    return f"lfwd_conv2d_s8({params}, {pointers}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_depthwise_conv2d.out", "lfwd::quantized_depthwise_conv2d.out")
def _depthwise(c: Context) -> str:
    weight = c.tensor(1)
    c.contiguous(weight)
    one, k_h, k_w, out_c = weight.shape
    fields = _conv_fields(c, (k_h, k_w, 1), _pads(c, 4), 3)
    c.require(one == 1 and fields[6] == out_c and out_c == fields[3] * c.number(6), "channels do not match the weight")
    _shifts_in_range(c, 10)
    params = c.table("lfwd_conv2d_s8_params", [*fields, c.number(7), c.number(8), *_range(c, 11, 12)])
    channels = _per_channel(c, out_c, 2, 9, 10)
    return f"lfwd_depthwise_conv2d_s8({params}, {c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {channels}, {c.pointer(c.out, 'int8_t')})"


@kernel("cortex_m::quantized_linear.out")
def _linear(c: Context) -> str:
    x, weight = c.tensor(0), c.tensor(1)
    c.require(c.arg(3) is None, "kernel sums are precomputed; export for cortex-m4, which serves every board")
    c.contiguous(x, weight, c.out)
    out_features, in_features = weight.shape
    c.require(x.shape[-1:] == (in_features,) and c.out.shape == (*x.shape[:-1], out_features), "shapes do not match")
    multiplier, shift = c.ints(7, 1)[0], c.ints(8, 1)[0]
    c.require(-31 <= shift <= 31, "the requantisation shift is beyond 31 bits")
    rows = x.count // in_features
    offsets = [c.number(k) for k in (4, 5, 6)]
    fields = [rows, in_features, out_features, *offsets, multiplier, shift, *_range(c, 10, 9)]
    params = c.table("lfwd_linear_s8_params", fields)
    bias = _per_channel(c, out_features, 2)
    return f"lfwd_linear_s8({params}, {c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {bias}, {c.pointer(c.out, 'int8_t')})"


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
    sizes = [x.shape[d] for d in x.order]
    sizes = [1] * (4 - len(sizes)) + sizes
    c.require(min(before + after) >= 0 and x.order == out.order or out.count == 1, "negative padding or another layout")
    total = 1
    for n, b, a in zip(sizes, before, after, strict=True):
        total *= n + b + a
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
