"""Operators of a frozen body in a step in integers (``lightning_fwd/integer/body.py``): calls of the int8 kernels."""

from __future__ import annotations

import math

import numpy as np

from .kernels import Context, kernel


def _constants(c: Context, k: int, kind: str) -> np.ndarray:
    t = c.tensor(k)
    c.require(t.data is not None and t.arena is None, f"argument {k} is no constant, and the body is frozen")
    return np.frombuffer(t.data, kind).astype(np.int64)


def _conv(c: Context, function: str, kernel_c: int, filters: np.ndarray, scratch: int, kernel: tuple[int, ...]) -> str:
    """``filters``: a row per output."""
    x, out = c.tensor(0), c.out
    c.contiguous(x, c.tensor(1), out)
    start, shift = _constants(c, 2, "<i4"), _constants(c, 4, "<i4")
    stride, (top, left, bottom, right), dilation = c.ints(5, 2), c.ints(6, 4), c.ints(7, 2)
    c.require(len(x.shape) == len(out.shape) == 4 and min(*stride, *dilation, *kernel) >= 1, "bad geometry")
    for n, m, p, d, k, s in zip(x.shape[1:3], out.shape[1:3], (top + bottom, left + right), dilation, kernel, stride, strict=True):
        c.require(m == (n + p - d * (k - 1) - 1) // s + 1, f"output {out.shape} does not follow from the input")
    c.require(all(c.tensor(k).count == out.shape[3] for k in (2, 3, 4)) and len(filters) == out.shape[3], "channels do not match")
    largest = np.abs(start) + 128 * np.abs(filters).sum(1)
    c.require(bool((largest < 2**31).all()) and bool((np.abs(shift) <= 31).all()), "a sum is beyond 32 bits, or a shift")
    narrow, zero = int((largest < 2**30).all() and (shift <= 0).all()), c.number(10)
    low = zero if c.number(11) else -127 if zero == 0 else -128
    fields = [*x.shape, *out.shape[1:], *kernel, kernel_c, *stride, top, left, *dilation, -c.number(9), zero, low, 127, narrow]
    constants = ", ".join(c.p(k, "int32_t") for k in (2, 3, 4))
    given = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {constants}, {c.scratch(scratch)}, {scratch}, {c.pointer(out, 'int8_t')}"
    return f"{function}({c.table('lfwd_conv2d_s8_params', fields)}, {given})"


@kernel("lfwd::int_body_conv.out")
def _body_conv(c: Context) -> str:
    out, *k, channels = c.tensor(1).shape
    c.require(c.number(8) * channels == c.tensor(0).shape[3], "channels do not match the weight")
    filters = _constants(c, 1, "i1").reshape(out, -1)
    return _conv(c, "lfwd_conv2d_s8", channels, filters, 4 * math.prod(k) * channels + 16, tuple(k))


@kernel("lfwd::int_body_depthwise.out")
def _body_depthwise(c: Context) -> str:
    one, *k, out = c.tensor(1).shape
    channels = c.tensor(0).shape[3]
    c.require(one == 1 and c.number(8) == channels and out % channels == 0, "channels do not match the weight")
    return _conv(c, "lfwd_depthwise_conv2d_s8", 1, _constants(c, 1, "i1").reshape(-1, out).T, channels + 16, tuple(k))


@kernel("lfwd::int_body_add.out")
def _body_add(c: Context) -> str:
    a, b = c.tensor(0), c.tensor(1)
    c.contiguous(a, b, c.out)
    numbers, zero = _constants(c, 2, "<i4").tolist(), c.number(3)
    c.require(len(numbers) == 4 and a.shape == b.shape == c.out.shape, "operands differ in shape")
    c.require(max(map(abs, numbers[:2])) < 1 << 15 and abs(numbers[2]) < 1 << 30 and 0 <= numbers[3] <= 30, "a sum is beyond 32 bits")
    low = zero if c.number(4) else -127 if zero == 0 else -128
    fields = c.table("lfwd_int_sum", [*numbers, zero, low])
    return f"lfwd_int_body_add({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {fields}, {a.count}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_body_sums.out")
def _body_sums(c: Context) -> str:
    x = c.tensor(0)
    c.contiguous(x, c.out)
    batch, *image, channels = x.shape
    sizes = f"{batch}, {math.prod(image)}, {channels}, {c.number(1)}"
    return f"lfwd_int_body_sums({c.p(0, 'int8_t')}, {sizes}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_body_features.out")
def _body_features(c: Context) -> str:
    batch, width = c.tensor(0).shape
    c.contiguous(c.tensor(0), c.out)
    c.require(all(c.tensor(k).count == width for k in (1, 2, 3)), "constants do not match the features")
    c.require(bool((np.abs(_constants(c, 3, "<i4")) <= 30).all()), "a shift is beyond 30 bits")
    given = ", ".join(c.p(k, "int32_t") for k in range(4))
    return f"lfwd_int_body_features({given}, {batch}, {width}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_channels_last.out")
def _channels_last(c: Context) -> str:
    batch, channels, *image = c.tensor(0).shape
    return _transposed(c, batch, channels, math.prod(image))


@kernel("lfwd::int_channels_first.out")
def _channels_first(c: Context) -> str:
    batch, *image, channels = c.tensor(0).shape
    return _transposed(c, batch, math.prod(image), channels)


def _transposed(c: Context, batch: int, rows: int, columns: int) -> str:
    c.contiguous(c.tensor(0), c.out)
    return f"lfwd_int_transpose({c.p(0, 'int8_t')}, {batch}, {rows}, {columns}, {c.pointer(c.out, 'int8_t')})"
