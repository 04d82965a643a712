"""Between a model's float parameters and the integers of a step: a parameter holds exactly what its integer master stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import BIAS_BITS, BIAS_EXPONENT, HALF, VELOCITY_FRACTION, VIEW_BITS, saturate

UNKNOWN = 127  #: an exponent that no batch was seen for yet


def _scale(exponents: Tensor | int, ndim: int) -> Tensor:
    """``2**exponent`` per row. In float32 throughout this file: powers of two, times integers of at most 24 bits, are exact."""
    e = torch.as_tensor(exponents, dtype=torch.float32)
    return torch.exp2(e.reshape(-1, *[1] * (ndim - 1)))


def row_exponents(weight: Tensor, room: int, by_row: bool) -> Tensor:
    """Exponents ``(out,)`` int8 at which each row's largest weight fits the int8 view with ``room`` powers of two to grow.

    Args:
        by_row: a scale for each output; otherwise one for the whole weight, in all rows.
    """
    top = weight.detach().abs().flatten(1).amax(1)
    top = torch.where(top > 0, top, top.max().clamp(min=2.0**-20)) if by_row else top.max().clamp(min=2.0**-20).expand_as(top)
    return (torch.log2(127.5 / top).floor() - room).clamp(-40, 60).to(torch.int8)


def value_exponent(largest: float) -> Tensor:
    """Exponent ``(1,)`` int8 at which a value fits 7 bits; of a power of two, up to that value itself, which saturates."""
    return torch.log2(torch.tensor([128.0 / max(largest, 2.0**-20)])).floor().clamp(-40, 60).to(torch.int8)


def quantise(x: Tensor, exponent: Tensor) -> Tensor:
    """An input as int8, ``-127..127``."""
    return (x.detach() * _scale(exponent, 1)).round().clamp(-127, 127).to(torch.int8)


def to_master(parameter: Tensor, exponents: Tensor) -> Tensor:
    """A weight that learns, as stored: int16 whose high byte is the int8 view."""
    return saturate((parameter.detach() * _scale(exponents + VIEW_BITS, parameter.ndim)).round() + HALF, 16).to(torch.int16)


def from_master(master: Tensor, exponents: Tensor) -> Tensor:
    """What a stored master stands for, in float32: exact."""
    return (master.float() - HALF) * _scale(-(exponents + VIEW_BITS), master.ndim)


def to_frozen(parameter: Tensor, exponents: Tensor) -> Tensor:
    """A weight that does not learn: int8."""
    return (parameter.detach() * _scale(exponents, parameter.ndim)).round().clamp(-127, 127).to(torch.int8)


def to_bias(parameter: Tensor) -> Tensor:
    return saturate((parameter.detach() * 2.0**BIAS_EXPONENT).round(), BIAS_BITS).to(torch.int32)


def from_bias(bias: Tensor) -> Tensor:
    return bias.float() * 2.0**-BIAS_EXPONENT


def velocity_scale(parameter: Tensor, exponents: Tensor | None) -> Tensor:
    """What a velocity's unit is in float: of a weight's rows, or of a bias."""
    below = BIAS_EXPONENT if exponents is None else exponents.float() + VIEW_BITS
    return 1 / _scale(below + VELOCITY_FRACTION, parameter.ndim if exponents is not None else 1)


def fits(parameter: Tensor, exponents: Tensor, learns: bool) -> bool:
    """Whether no weight lies beyond the range of its row's exponent."""
    top = 128.5 if learns else 127.5  # a master at the end of its range is half a step of the view beyond it
    return bool(((parameter.detach() * _scale(exponents, parameter.ndim)).abs() <= top).all())
