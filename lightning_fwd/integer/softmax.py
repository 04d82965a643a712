"""The error of a softmax with cross-entropy, ``p - y``, by a table of 32 powers of two, and of Forward-Forward's two-class softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .arithmetic import as_multiplier, saturate
from .operators import int16_like, operator

FRACTION = 5  #: log2 of the table's entries; more do not change what is learned (README, ablations)
TABLE = tuple(round(2.0 ** (-i / 32) * 32768) for i in range(1 << FRACTION))  #: 2**-t in Q15, t = i / 32
ERROR_EXPONENT = 15  #: the error is Q15: 1 = 2**15


def in_powers(factor: float) -> tuple[int, int]:
    """A factor on a distance as :func:`exponential` takes it: in units of the table's."""
    return as_multiplier(factor * math.log2(math.e) * (1 << FRACTION))


def exponential(distance: Tensor, exponent: Tensor, mult: int, below: int) -> Tensor:
    """``exp(-distance * factor * 2**-exponent)`` in Q15, of ``distance >= 0``: one product, two shifts, one look into the table.

    ``mult, below``: the factor :func:`in_powers`.
    """
    s = exponent.long() + below + 15
    product = distance * mult
    t = torch.where(s > 0, (product + ((1 << s.clamp(0, 62)) >> 1)) >> s.clamp(0, 62), product << (-s).clamp(0, 15))
    t = t.clamp(max=31 << FRACTION)
    return torch.tensor(TABLE)[t & ((1 << FRACTION) - 1)] >> (t >> FRACTION)


def probabilities(logits: Tensor, exponent: Tensor) -> Tensor:
    """Softmax of ``logits * 2**-exponent`` ``(B, C)`` in Q15."""
    u = exponential(logits.max(1, keepdim=True).values - logits, exponent, *in_powers(1.0))
    total = u.sum(1, keepdim=True)
    return ((u << 15) + total // 2) // total


@operator("int_softmax_error(Tensor logits, Tensor exponent, Tensor target)", int16_like)
def int_softmax_error(logits, exponent, target):
    """``softmax(logits) - one_hot(target)`` of int32 logits ``(B, C)``, C at most 256, as Q15 in int16. ``target (B,)`` int64."""
    p = probabilities(logits.long(), exponent)
    return saturate(p - (F.one_hot(target, logits.shape[1]) << 15), 16).clamp(min=-32767)
