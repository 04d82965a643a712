"""Linear layers and convolutions in integers: the sums of a forward pass, and the error that they hand back.

``weight`` ``(out, in, ...)`` is an int16 master, of which the int8 view (its high byte) takes part, or a frozen int8 weight. It has one
exponent per row (output): sums of a forward pass are brought to the smallest of them, errors are before the product. Sums are int32:
whoever builds the step keeps the widths of what goes in such that they cannot overflow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv1d_input, conv2d_input

from .arithmetic import BIAS_EXPONENT, exact, saturate, shift, view_of
from .operators import operator

_CONV = {3: F.conv1d, 4: F.conv2d}
_CONV_INPUT = {3: conv1d_input, 4: conv2d_input}
GEOMETRY = "int[] stride, int[] padding, int[] dilation, int groups"


def _rows(exponents: Tensor, dims: int, at: int) -> Tensor:
    """How much each row's exponent lies above the smallest, broadcast along dimension ``at`` of ``dims``."""
    shape = [1] * dims
    shape[at] = -1
    return (exponents.long() - exponents.long().min()).reshape(shape)


def _sums(acc: Tensor, exponents: Tensor, bias: Tensor | None, x_exponent: Tensor) -> Tensor:
    """Exact sums of a forward pass, in a float type, at the smallest of the rows' exponents, and the bias."""
    rows, room = _rows(exponents, acc.ndim, 1).int(), 1 << 30
    added = None
    if bias is not None:
        added = shift(bias.long(), BIAS_EXPONENT - exponents.long().min() - x_exponent.long()).reshape(rows.shape)
    if acc.dtype == torch.float32 and (added is None or int(added.abs().max()) < room):  # of 24 bits: nothing can leave 32
        sums, rows = acc.int(), rows.clamp(max=26)  # from 26 on nothing of 24 bits is left
        sums = sums.add_((1 << rows) >> 1).bitwise_right_shift_(rows) if bool((rows > 0).any()) else sums
        return sums if added is None else sums.add_(added.int())
    sums = shift(acc.long(), rows)
    return sums if added is None else saturate(sums + added, 32)


def _linear_like(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.int32)


@operator("int_linear(Tensor x, Tensor weight, Tensor exponents, Tensor? bias, Tensor x_exponent)", _linear_like)
def int_linear(x, weight, exponents, bias, x_exponent):
    """``x (B, in)`` int8 to sums ``(B, out)`` int32 of exponent ``min(exponents) + x_exponent``; ``bias (out,)`` int32 of exponent 18."""
    kind = exact(128, 128, x.shape[1])
    return _sums(x.to(kind) @ view_of(weight).to(kind).t(), exponents, bias, x_exponent)


def _linear_back_like(e: Tensor, weight: Tensor, *_: object) -> Tensor:
    return e.new_empty((e.shape[0], weight.shape[1]), dtype=torch.int32)


@operator("int_linear_back(Tensor e, Tensor weight, Tensor exponents)", _linear_back_like)
def int_linear_back(e, weight, exponents):
    """Error ``(B, out)`` int16 through the transposed weight: ``(B, in)`` int32, its exponent that of ``e`` plus ``min(exponents)``."""
    kind = exact(1 << 15, 128, weight.shape[0])
    return (shift(e.long(), _rows(exponents, 2, 1)).to(kind) @ view_of(weight).to(kind)).long()


@operator("int_linear_error(Tensor e, Tensor weight, Tensor exponents)", _linear_like)
def int_linear_error(e, weight, exponents):
    """Error ``(B, in)`` int16 through a weight ``(out, in)``, not transposed: ``(B, out)`` int32, its exponent that of ``e`` plus
    ``min(exponents)``."""
    kind = exact(1 << 15, 128, weight.shape[1])
    return shift((e.to(kind) @ view_of(weight).to(kind).t()).long(), _rows(exponents, 2, 1))


def conv_size(x: list[int], weight: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> list[int]:
    """``(B, out, ...)`` of a convolution."""
    spatial = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(x[2:], weight[2:], stride, padding, dilation, strict=True)]
    return [x[0], weight[0], *spatial]


def _conv_like(x, weight, exponents, bias, x_exponent, stride, padding, dilation, groups):
    return x.new_empty(conv_size(list(x.shape), list(weight.shape), stride, padding, dilation), dtype=torch.int32)


@operator(f"int_conv(Tensor x, Tensor weight, Tensor exponents, Tensor? bias, Tensor x_exponent, {GEOMETRY})", _conv_like)
def int_conv(x, weight, exponents, bias, x_exponent, stride, padding, dilation, groups):
    """As :func:`int_linear` for ``x (B, in, ...)``; 1-d and 2-d, strided, dilated, grouped, depthwise."""
    kind = exact(128, 128, weight[0].numel())
    acc = _CONV[x.ndim](x.to(kind), view_of(weight).to(kind), None, stride, padding, dilation, groups)
    return _sums(acc, exponents, bias, x_exponent)


def _conv_onto_like(x, weight, exponents, x_exponent, base, base_exponent, *_: object):
    return base.new_empty(base.shape)


@operator(
    f"int_conv_onto(Tensor x, Tensor weight, Tensor exponents, Tensor x_exponent, Tensor base, Tensor base_exponent, {GEOMETRY})",
    _conv_onto_like,
)
def int_conv_onto(x, weight, exponents, x_exponent, base, base_exponent, *geometry):
    """:func:`int_conv` without a bias, and other sums ``base`` with their exponent added to it, as :func:`.goodness.int_add_sums` adds."""
    own = exponents.long().min() + x_exponent.long()
    f, acc = torch.minimum(own, base_exponent.long()), int_conv(x, weight, exponents, None, x_exponent, *geometry)
    return saturate(shift(acc.long(), own - f) + shift(base.long(), base_exponent.long() - f), 32)


def _conv_error_like(e, weight, exponents, stride, padding, dilation, groups):
    return e.new_empty(conv_size(list(e.shape), list(weight.shape), stride, padding, dilation), dtype=torch.int32)


@operator(f"int_conv_error(Tensor e, Tensor weight, Tensor exponents, {GEOMETRY})", _conv_error_like)
def int_conv_error(e, weight, exponents, stride, padding, dilation, groups):
    """As :func:`int_linear_error` for an error ``(B, in, ...)`` int16 through a convolution as it is, not transposed."""
    kind = exact(1 << 15, 128, weight[0].numel())
    acc = _CONV[e.ndim](e.to(kind), view_of(weight).to(kind), None, stride, padding, dilation, groups).round().long()
    return shift(acc, _rows(exponents, e.ndim, 1))


def _conv_back_like(e, weight, exponents, size, *_: object):
    return e.new_empty(size, dtype=torch.int32)


@operator(f"int_conv_back(Tensor e, Tensor weight, Tensor exponents, int[] size, {GEOMETRY})", _conv_back_like)
def int_conv_back(e, weight, exponents, size, stride, padding, dilation, groups):
    """As :func:`int_linear_back` for the error ``(B, out, ...)`` of a convolution whose input had this size."""
    kind = exact(1 << 15, 128, weight.numel() // weight.shape[1])
    scaled, view = shift(e.long(), _rows(exponents, e.ndim, 1)).to(kind), view_of(weight).to(kind)
    return _CONV_INPUT[e.ndim](size, view, scaled, stride, padding, dilation, groups).round().long()
