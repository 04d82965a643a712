"""Updates of master weights: an int16 error times int8 activations, summed over the batch, rounded once per weight and step.

A stored master V is int16: its high byte is the int8 view, ``V - 128`` in units of ``2**-(f + 8)`` its value (f: the row's exponent). The
gradient
is never stored. A velocity U (momentum) has the same units with four more fraction bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight

from .arithmetic import (
    BIAS_BITS,
    BIAS_EXPONENT,
    RATCHET_EVERY,
    VELOCITY_FRACTION,
    VIEW_BITS,
    draws,
    exact,
    multiply,
    saturate,
    shift,
    shift_stochastic,
)
from .layers import GEOMETRY
from .operators import int16_like, operator, update

_CONV_WEIGHT = {3: conv1d_weight, 4: conv2d_weight}


@operator("int_apply_rate(Tensor e, Tensor rate, int mult, int bits)", int16_like)
def int_apply_rate(e, rate, mult, bits):
    """``c``: the error times rate and ``mult * 2**-15``, in ``bits`` bits; ``rate`` int32: multiplier (15 bits), exponent, momentum in
    Q15."""
    both = multiply(rate[0].long(), mult)
    return saturate(shift(e.long() * both, 31 - bits), bits)


def _rate_exponent_like(rate: Tensor, *_: object) -> Tensor:
    return rate.new_empty((1,), dtype=torch.int8)


@operator("int_rate_exponent(Tensor rate, Tensor? e_exponent, int constant)", _rate_exponent_like)
def int_rate_exponent(rate, e_exponent, constant):
    """The exponent of ``c``; without ``e_exponent`` that of the error is part of the constant."""
    return ((0 if e_exponent is None else e_exponent.long().min()) + rate[1].long() + constant).clamp(-127, 127)


def _stochastic(total: Tensor, s: Tensor, counter: Tensor, stream: int) -> Tensor:
    """Round sums ``(rows, ...)`` by the draws of :func:`draws`: rows are outputs, columns all else in the order of memory."""
    rows = total.shape[0]
    flat = total.reshape(rows, -1)
    return shift_stochastic(flat, s, draws(counter, stream, rows, flat.shape[1])).reshape(total.shape)


def _change(total: Tensor, exponents: Tensor, c_exponent: Tensor, x_exponent: Tensor, more: int, counter: Tensor, stream: int) -> Tensor:
    """The change of each entry in units of its master, with ``more`` fraction bits."""
    s = c_exponent.long() + x_exponent.long() - (exponents.long() + VIEW_BITS) - more
    return _stochastic(total, s.reshape(-1, 1), counter, stream)


def _outer(c: Tensor, x: Tensor) -> Tensor:
    kind = exact(1 << 15, 128, len(x))
    return (c.to(kind).t() @ x.to(kind)).long()


def _conv(c: Tensor, x: Tensor, size: list[int], geometry: tuple) -> Tensor:
    kind = exact(1 << 15, 128, c.numel() // c.shape[1])
    return _CONV_WEIGHT[x.ndim](x.to(kind), size, c.to(kind), *geometry).round().long()


def _subtract(self: Tensor, change: Tensor, index: Tensor | None) -> Tensor:
    """By at most 16 bits. Of a part that learns, the entries ``index`` along the inputs alone change."""
    change = saturate(change, 16)
    if index is None:
        return saturate(self.long() - change, 16)
    return self.long().index_copy(1, index, saturate(self.long().index_select(1, index) - change, 16))


_SCALES = "Tensor exponents, Tensor c, Tensor c_exponent, Tensor x, Tensor x_exponent, Tensor counter, int stream"


@update(f"int_outer_update(Tensor self, {_SCALES}, Tensor? index)")
def int_outer_update(self, exponents, c, c_exponent, x, x_exponent, counter, stream, index):
    """Masters ``(out, in)`` minus the sum over the batch of ``c (B, out)`` times ``x (B, in)``; ``index``: inputs that learn, x has these
    alone."""
    return _subtract(self, _change(_outer(c, x), exponents, c_exponent, x_exponent, 0, counter, stream), index)


@update(f"int_conv_update(Tensor self, {_SCALES}, Tensor? index, {GEOMETRY})")
def int_conv_update(self, exponents, c, c_exponent, x, x_exponent, counter, stream, index, *geometry):
    """The same for a convolution's masters ``(out, in, ...)``: ``c (B, out, ...)``, ``x (B, in, ...)``."""
    size = [self.shape[0], x.shape[1] // geometry[3], *self.shape[2:]]
    return _subtract(self, _change(_conv(c, x, size, geometry), exponents, c_exponent, x_exponent, 0, counter, stream), index)


def _accelerate(self: Tensor, change: Tensor, rate: Tensor, counter: Tensor, stream: int, bits: int) -> Tensor:
    kept = _stochastic(self.long() * rate[2].long(), torch.tensor(15), counter, stream + 1)
    return saturate(kept + saturate(change, 16), bits)


@update(f"int_outer_velocity(Tensor self, {_SCALES}, Tensor rate)")
def int_outer_velocity(self, exponents, c, c_exponent, x, x_exponent, counter, stream, rate):
    """Velocity of the part that learns: ``momentum * U`` plus the change, each rounded by draws of its own."""
    change = _change(_outer(c, x), exponents, c_exponent, x_exponent, VELOCITY_FRACTION, counter, stream)
    return _accelerate(self, change, rate, counter, stream, 16)


@update(f"int_conv_velocity(Tensor self, {_SCALES}, Tensor rate, {GEOMETRY})")
def int_conv_velocity(self, exponents, c, c_exponent, x, x_exponent, counter, stream, rate, *geometry):
    change = _change(_conv(c, x, list(self.shape), geometry), exponents, c_exponent, x_exponent, VELOCITY_FRACTION, counter, stream)
    return _accelerate(self, change, rate, counter, stream, 16)


@update("int_apply_velocity(Tensor self, Tensor velocity, Tensor counter, int stream, Tensor? index)")
def int_apply_velocity(self, velocity, counter, stream, index):
    """Masters (int16) or biases (int32, held to 24 bits) minus their velocity."""
    change = _stochastic(velocity.long(), torch.tensor(VELOCITY_FRACTION), counter, stream + 2)
    if self.dtype == torch.int16:
        return _subtract(self, change, index)
    return saturate(self.long() - change, BIAS_BITS)


def _bias_change(c: Tensor, c_exponent: Tensor, more: int, counter: Tensor, stream: int) -> Tensor:
    total = c.long().sum([0, *range(2, c.ndim)])
    return _stochastic(total, c_exponent.long() - BIAS_EXPONENT - more, counter, stream)


@update("int_bias_update(Tensor self, Tensor c, Tensor c_exponent, Tensor counter, int stream)")
def int_bias_update(self, c, c_exponent, counter, stream):
    """Biases ``(out,)`` int32 minus the sum of ``c (B, out, ...)`` over batch and positions; rows of one column."""
    return saturate(self.long() - _bias_change(c, c_exponent, 0, counter, stream), BIAS_BITS)


@update("int_bias_velocity(Tensor self, Tensor c, Tensor c_exponent, Tensor counter, int stream, Tensor rate)")
def int_bias_velocity(self, c, c_exponent, counter, stream, rate):
    kept = shift(self.long() * rate[2].long(), 15)  # at 22 fraction bits: the nearest will do
    return saturate(kept + _bias_change(c, c_exponent, VELOCITY_FRACTION, counter, stream), BIAS_BITS)


# ---- the ratchet: a row whose masters saturate doubles its range


def _row_flags(self: Tensor, *_: object) -> Tensor:
    return self.new_empty((self.shape[0],), dtype=torch.int8)


@operator("int_saturated(Tensor weight, Tensor counter)", _row_flags)
def int_saturated(weight, counter):
    """1 for each row of masters of which one is at the end of its range; looked for at every 16th step only."""
    if int(counter) % RATCHET_EVERY != RATCHET_EVERY - 1:
        return torch.zeros(len(weight))
    flat = weight.reshape(len(weight), -1)
    return ((flat == 32767) | (flat == -32768)).any(1)


@update("int_ratchet(Tensor self, Tensor rows, int offset)")
def int_ratchet(self, rows, offset):
    """Rows that are flagged, halved: masters (``offset`` 128) and velocities (0)."""
    if not bool(rows.any()):
        return self.clone()
    flags = rows.long().reshape(-1, *[1] * (self.ndim - 1))
    return shift(self.long() - offset, flags) + offset


@update("int_ratchet_exponents(Tensor self, Tensor rows)")
def int_ratchet_exponents(self, rows):
    """Their exponents, one smaller."""
    return self.long() - rows.long()


@update("int_next(Tensor self)")
def int_next(self):
    """The counter of steps, modulo 2**31."""
    return (self + 1) & 0x7FFFFFFF
