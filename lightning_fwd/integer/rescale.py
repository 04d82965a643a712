"""Between sums (int32) and values (int8 activations, int16 errors): exponents, requantisation, masks, pooling, addition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .arithmetic import bit_length, multiply, saturate, shift
from .operators import int8_like, int16_like, one_exponent, operator, update


@operator("int_exponent(Tensor a, Tensor? b, int sign, int constant)", one_exponent)
def int_exponent(a, b, sign, constant):
    """``min(a) + sign * min(b) + constant``: the exponent of a product (sign 1), or of what is shifted by b to the right (sign -1)."""
    other = 0 if b is None else sign * b.long().min()
    return (a.long().min() + other + constant).clamp(-127, 127)


@operator("int_requantise(Tensor acc, Tensor exponent, Tensor out_exponent, int mult, bool relu)", int8_like)
def int_requantise(acc, exponent, out_exponent, mult, relu):
    """Sums to int8 activations of exponent ``out_exponent``, saturated to ``-127..127``, 0..127 after a ReLU.

    ``mult * 2**-15`` is a factor on the sums.
    """
    s, low = int(exponent) - int(out_exponent), 0 if relu else -127
    if mult == 1 << 15 and 0 < s < 23:  # clamped before it is rounded: the same, without leaving 32 bits
        return acc.clamp(low << s, 127 << s).add_(1 << (s - 1)).bitwise_right_shift_(s)
    return shift(acc if mult == 1 << 15 else multiply(acc.long(), mult), s).clamp(low, 127)


@operator("int_needed_exponent(Tensor acc, Tensor exponent, int mult, bool relu)", one_exponent)
def int_needed_exponent(acc, exponent, mult, relu):
    """The largest exponent at which all of these sums fit into an int8 activation."""
    seen = acc.long().clamp(min=0) if relu else acc.long()
    return (exponent.long() - (bit_length(multiply(seen, mult)) - 7)).clamp(-127, 127)


@update("int_coarsen(Tensor self, Tensor needed)")
def int_coarsen(self, needed):
    """The exponent of an activation from the next step on: smaller where this step's largest value did not fit, never larger."""
    return torch.minimum(self.long(), needed.long())


def _masked(acc: Tensor, mask: Tensor | None) -> Tensor:
    return acc.long() if mask is None else acc.long() * (mask > 0)


@operator("int_narrow_shift(Tensor acc, Tensor? mask, int bits)", one_exponent)
def int_narrow_shift(acc, mask, bits):
    """How far an error must be shifted to the right to fit ``bits``, from its largest value of this step; ``mask``: activations of a
    ReLU."""
    return (bit_length(_masked(acc, mask)) - (bits - 1)).clamp(min=0)


@operator("int_narrow(Tensor acc, Tensor? mask, Tensor shift, int bits)", int16_like)
def int_narrow(acc, mask, shift_, bits):
    """An error ``acc`` (int32 or int16) as int16 of ``bits`` bits, zero where the ReLU's activation ``mask`` is."""
    return saturate(shift(_masked(acc, mask), shift_.long()), bits)


@operator("int_mask(Tensor e, Tensor mask)", int16_like)
def int_mask(e, mask):
    """An int16 error behind a ReLU: zero where its activation is."""
    return _masked(e, mask)


SUM_FRACTION = 12  #: bits that an error gains where it is added to sums


def _int32_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int32)


@operator("int_error_sum(Tensor e)", _int32_like)
def int_error_sum(e):
    """An int16 error as int32, with 12 more fraction bits: so that it can meet the sums of another layer's error."""
    return e.int() << SUM_FRACTION


def _pooled(x, kernel, stride, padding):
    size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True)]
    return x.new_empty([*x.shape[:2], *size], dtype=torch.int32)


@operator("int_pool_sum(Tensor x, int[] kernel, int[] stride, int[] padding)", _pooled)
def int_pool_sum(x, kernel, stride, padding):
    """Sums of windows of ``x (B, C, H, W)`` int8; the division is part of what follows."""
    return F.avg_pool2d(x.double(), kernel, stride, padding, divisor_override=1)


@operator("int_add(Tensor a, Tensor a_exponent, Tensor b, Tensor b_exponent)", _int32_like)
def int_add(a, a_exponent, b, b_exponent):
    """Sum of two int8 activations, of the larger of their exponents, but at most 15 above the smaller: beyond that the finer is rounded."""
    f = int(int_larger(a_exponent, b_exponent))
    return shift(a.int(), int(a_exponent) - f) + shift(b.int(), int(b_exponent) - f)


@operator("int_larger(Tensor a, Tensor b)", one_exponent)
def int_larger(a, b):
    """The exponent of :func:`int_add`'s result."""
    return torch.minimum(torch.maximum(a.long(), b.long()), torch.minimum(a.long(), b.long()) + 15)


@operator("int_smaller(Tensor a, Tensor b)", one_exponent)
def int_smaller(a, b):
    """The exponent of :func:`.goodness.int_add_sums`'s result."""
    return torch.minimum(a.long(), b.long())
