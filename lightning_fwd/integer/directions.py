"""Zeroth order in integers: weights displaced along a random direction, the slope of the loss along it, the change that follows.

Rows of a weight are displaced alike, by the scale asked for as a power of two, but at least by one step of the coarsest row's int8 view:
rows that move more than others would drown the slope of those. Where a row is so fine that this is more than 64 of its steps, it moves by
64. A bias moves as the weight of its layer does. A displacement is ``2**-p``; the change of a row is divided by its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.counter_random import random_bits
from .arithmetic import BIAS_BITS, BIAS_EXPONENT, VIEW_BITS, bit_length, draws, saturate, shift_stochastic, view_of
from .operators import int8_like, one_exponent, operator, update

_MOST = 6  #: log2 of the largest displacement, in steps of the view


def _signs(counter: Tensor, times: int, plus: int, like: Tensor) -> Tensor:
    """+1 and -1, those of :func:`lightning_fwd.graph.weight_directions.direction` with the seed ``counter * times + plus``."""
    return 1 - 2 * (random_bits(counter.reshape(()) * times + plus, like.shape, like.device) & 1)


def _steps(exponents: Tensor, wanted: int) -> Tensor:
    """log2 of the displacement of each row in steps of its view ``(rows,)``; ``wanted``: the exponent of the scale asked for."""
    return (exponents.long() - exponents.long().min().clamp(max=wanted)).clamp(max=_MOST)


_DRAW = "Tensor counter, int times, int plus, int wanted"


@operator(f"int_moved(Tensor weight, Tensor exponents, {_DRAW})", int8_like)
def int_moved(weight, exponents, counter, times, plus, wanted):
    """The int8 view of masters ``(out, in, ...)``, displaced."""
    d = (1 << _steps(exponents, wanted)).reshape(-1, *[1] * (weight.ndim - 1))
    return saturate(view_of(weight) + _signs(counter, times, plus, weight) * d, 8)


def _bias_step(exponents: Tensor | None, wanted: int) -> int:
    """log2 of a bias's displacement in its own steps: that of its layer's weight, whose rows have these exponents, where that moves too."""
    p = wanted if exponents is None else min(wanted, int(exponents.min()))
    return max(0, min(BIAS_EXPONENT - p, BIAS_BITS - 2))


def _bias_like(bias: Tensor, *_: object) -> Tensor:
    return bias.new_empty(bias.shape, dtype=torch.int32)


@operator(f"int_moved_bias(Tensor bias, Tensor? exponents, {_DRAW})", _bias_like)
def int_moved_bias(bias, exponents, counter, times, plus, wanted):
    """Biases ``(out,)`` int32 of exponent 18, displaced."""
    return saturate(bias.long() + (_signs(counter, times, plus, bias) << _bias_step(exponents, wanted)), BIAS_BITS)


def _total(e: Tensor, after: Tensor, before: Tensor) -> Tensor:
    """Within 64 bits: 16 of an error, 32 of a difference that is held to them, and ``B C <= 2**16``."""
    return (e.long() * saturate(after.long() - before.long(), 32)).sum().reshape(1)


@operator("int_slope_shift(Tensor e, Tensor after, Tensor before)", one_exponent)
def int_slope_shift(e, after, before):
    """How far the slope must be shifted to the right to fit 16 bits."""
    return (_bits(_total(e, after, before)) - 15).clamp(min=0)


def _bits(total: Tensor) -> Tensor:
    """:func:`bit_length` of more bits than a float64 holds."""
    high = bit_length(total.abs() >> 32)
    return torch.where(high > 0, high + 32, bit_length(total))


def _slope_like(e: Tensor, *_: object) -> Tensor:
    return e.new_empty((1,), dtype=torch.int16)


@operator("int_slope(Tensor e, Tensor after, Tensor before, Tensor shift)", _slope_like)
def int_slope(e, after, before, shift_):
    """``<e, after - before>`` of errors int16 and logits int32 ``(B, C)``, as int16."""
    total, s = _total(e, after, before), shift_.long()
    return saturate((total + ((1 << s) >> 1)) >> s, 16)


@update(f"int_direction_update(Tensor self, Tensor exponents, Tensor c, Tensor c_exponent, int stream, {_DRAW})")
def int_direction_update(self, exponents, c, c_exponent, stream, counter, times, plus, wanted):
    """Masters minus ``c (1,)`` int16 along the direction, divided by the displacement of each row, rounded once by draws."""
    rows, f = self.shape[0], exponents.long()
    change = (c.long() * _signs(counter, times, plus, self)).reshape(rows, -1)
    s = c_exponent.long() - (f - _steps(exponents, wanted)) - (f + VIEW_BITS)
    rounded = _rounded(change, s.reshape(-1, 1), counter, stream).reshape(self.shape)
    return saturate(self.long() - saturate(rounded, 16), 16)


@update(f"int_direction_bias_update(Tensor self, Tensor? exponents, Tensor c, Tensor c_exponent, int stream, {_DRAW})")
def int_direction_bias_update(self, exponents, c, c_exponent, stream, counter, times, plus, wanted):
    """The same for biases ``(out,)``; rows of one column."""
    change = (c.long() * _signs(counter, times, plus, self))[:, None]
    s = c_exponent.long() - (BIAS_EXPONENT - _bias_step(exponents, wanted)) - BIAS_EXPONENT
    return saturate(self.long() - _rounded(change, s, counter, stream)[:, 0], BIAS_BITS)


def _rounded(change: Tensor, s: Tensor, counter: Tensor, stream: int) -> Tensor:
    return shift_stochastic(change, s, draws(counter, stream, *change.shape))
