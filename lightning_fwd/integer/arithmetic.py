"""Exact integer arithmetic: shifts that round, draws of stochastic rounding, multipliers. The definition that the C kernels are held
against.

A value is ``q * 2**-f``: ``q`` an integer tensor, ``f`` its exponent (an int8 tensor of one element, or of one per row of a weight). All
functions
take and give int64 tensors that hold narrower integers; what each is narrowed to is said where it is stored.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..graph.counter_random import hash32, hashed

INT32 = (1 << 31) - 1
VIEW_BITS = 8  #: of the int8 view below which a master weight keeps its fraction
HALF = 1 << (VIEW_BITS - 1)  #: added to a stored master, so that its high byte is the rounded view
BIAS_EXPONENT = 18  #: of every bias: 24 bits reach +-32, in steps of 2**-18
BIAS_BITS = 24  #: a float32 parameter holds these exactly
VELOCITY_FRACTION = 4  #: bits that a velocity keeps below one step of its master
RATCHET_EVERY = 16  #: steps between two looks for saturated masters


def saturate(x: Tensor, bits: int) -> Tensor:
    """To the two's complement range of ``bits``."""
    top = (1 << (bits - 1)) - 1
    return x.clamp(-top - 1, top)


def shift(x: Tensor, s: Tensor | int) -> Tensor:
    """``round(x * 2**-s)``, halves upwards, saturated to int32; ``s`` may be negative (to the left). Both broadcast.

    ``x`` of int32 stays it where no bit can be lost, and one shift for all is a single pass.
    """
    if isinstance(s, int) or s.numel() == 1:
        return _shift_all(x, int(s))
    s = s.long()
    right = s.clamp(0, 33)
    rounded = (x.long() + ((1 << right) >> 1)) >> right
    left = (-s).clamp(0, 31)
    return saturate(rounded << left, 32)


def _shift_all(x: Tensor, s: int) -> Tensor:
    if s < 0:
        return saturate(x.long() << min(-s, 31), 32)
    if x.dtype == torch.int32:
        if s > 31:
            return torch.zeros_like(x)
        return x if s == 0 else ((half := x >> (s - 1)) >> 1) + (half & 1)
    s = min(s, 33)
    return saturate((x + ((1 << s) >> 1)) >> s, 32)


def shift_stochastic(x: Tensor, s: Tensor | int, draw: Tensor) -> Tensor:
    """``x * 2**-s`` rounded up with the probability of what is cut off; ``draw`` uniform in ``[0, 2**16)``, ``|x| < 2**30``.

    Of more than 16 bits that are cut off, the lowest are dropped before the draw (a bias below 2**-16 of a step).
    """
    s = torch.as_tensor(s, dtype=torch.int64)
    if bool((s > 16).all()):
        return ((x.int() >> (s - 16).clamp(max=31).int()) + draw) >> 16
    if bool(((s > 0) & (s <= 16)).all()):
        return (x.int() + (draw >> (16 - s).int())) >> s.int()
    low = (x + (draw >> (16 - s.clamp(0, 16)))) >> s.clamp(0, 16)
    high = ((x >> (s - 16).clamp(0, 31)) + draw) >> 16
    return torch.where(s > 16, high, torch.where(s > 0, low, shift(x, s.clamp(max=0))))


def draws(counter: Tensor, stream: int, rows: int, columns: int) -> Tensor:
    """``(rows, columns)`` draws in ``[0, 2**16)`` of one step and one stream; ``ceil(columns / 2) + rows`` hashes.

    ``key = hash32(hash32(counter) + stream)``. Column j takes the low (j even) or high (j odd) half of ``hash32(key + j // 2)``, row o the
    low half of ``hash32(hash32(key + 2**31) + o)``; the draw is their sum modulo 2**16. Each draw is uniform; those of two rows differ by a
    constant, which unbiased rounding does not mind and which lets a kernel fill one line of draws per step, not one per weight.
    """
    key = cast(int, hash32(cast(int, hash32(int(counter))) + stream))
    pair = hashed((columns + 1) // 2, key)
    line = np.stack([pair & 0xFFFF, pair >> 16], 1).reshape(-1)[:columns]
    row = hashed(rows, cast(int, hash32(key + (1 << 31))))
    return torch.from_numpy(((line[None] + row[:, None]) & 0xFFFF).astype(np.int32))


def bit_length(x: Tensor) -> Tensor:
    """Bits of ``max |x|``, 0 of nothing but zeros; a tensor of one element."""
    top = x.abs().max().reshape(1) if x.numel() else torch.zeros(1, dtype=torch.int64)
    return torch.frexp(top.double()).exponent.long()


def as_multiplier(value: float) -> tuple[int, int]:
    """A number as ``(mult, exponent)``: ``mult * 2**-15 * 2**-exponent``, to 15 bits.

    Of a positive one ``2**14 < mult < 2**15``, or 2**15 for a power of two, of which kernels skip the product.
    """
    if value < 0:
        mult, exponent = as_multiplier(-value)
        return -mult, exponent
    fraction, exponent = math.frexp(value)
    mult = round(math.ldexp(fraction, 15))
    if mult in (1 << 14, 1 << 15):
        return 1 << 15, 1 - exponent if mult == 1 << 14 else -exponent
    return mult, -exponent


def multiply(x: Tensor, mult: int) -> Tensor:
    """``round(x * mult * 2**-15)``."""
    return x if mult == 1 << 15 else (x * mult + (1 << 14)) >> 15


def view_of(weight: Tensor) -> Tensor:
    """The int8 values that the forward pass sees, as int64: the high byte of a stored int16 master, or a frozen int8 weight itself."""
    return weight.long() >> VIEW_BITS if weight.dtype == torch.int16 else weight.long()


def exact(*bounds: int) -> torch.dtype:
    """The float type in which sums of products of these bounds (two magnitudes and a count) are exact."""
    bound = math.prod(bounds)
    assert bound < 1 << 53, bound
    return torch.float32 if bound <= 1 << 24 else torch.float64
