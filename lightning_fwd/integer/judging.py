"""What a prediction in integers is worth, in integers: the guard of an adaptation on a device without floats.

Losses are sums over samples of 2**-12 bits: of cross-entropy at a scale of the logits, or of the entropy of a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .arithmetic import as_multiplier
from .softmax import FRACTION, TABLE

LOSS_FRACTION = 12  #: a loss of 1 is 2**-12 bits
NATS = math.log(2) / (1 << LOSS_FRACTION)  #: of a loss of 1
_MOST = (1 << 24) - 1  #: of a distance, in 2**-12 powers of two
_BELOW = LOSS_FRACTION - FRACTION  #: bits of a power that lie between two entries of the table


def in_powers(scale: float) -> tuple[int, int]:
    """A scale of the logits as multiplier and exponent of their distances, which become powers of two."""
    return as_multiplier(scale * math.log2(math.e) * (1 << LOSS_FRACTION))


def _powers(distance: Tensor, exponent: int, mult: int, below: int) -> Tensor:
    """How many 2**-12 powers of two a distance of logits is worth, below 4096 powers."""
    s = exponent + below + 15
    product = distance * mult
    t = (product + ((1 << min(s, 62)) >> 1)) >> min(s, 62) if s > 0 else product << min(-s, 15)
    return t.clamp(max=_MOST)


def _shares(t: Tensor) -> Tensor:
    """2**-t in Q15, by the softmax's table and a line between its entries."""
    at, low = (t >> _BELOW) & ((1 << FRACTION) - 1), t & ((1 << _BELOW) - 1)
    return ((torch.tensor(TABLE)[at] * (32768 - ((low * 355 + 32) >> 6))) >> 15) >> (t >> LOSS_FRACTION).clamp(max=31)


def _log2(total: Tensor) -> Tensor:
    """Of ``total * 2**-15``, ``2**15 <= total < 2**31``, in 2**-12: bit by bit, by squaring."""
    whole = torch.frexp(total.double()).exponent.long() - 1
    m, found = total << (30 - whole), (whole - 15) << LOSS_FRACTION
    for bit in reversed(range(LOSS_FRACTION)):
        m = (m * m) >> 30
        carry = (m >> 31) & 1
        found, m = found + (carry << bit), m >> carry
    return found


def losses(logits: Tensor, exponent: int, labels: Tensor, scales: Sequence[float]) -> Tensor:
    """``(len(scales),)`` sums over samples of the cross-entropy; ``logits (N, C)`` int32, ``labels (N,)``."""
    distance = logits.long().amax(1, keepdim=True) - logits.long()
    found = []
    for scale in scales:
        t = _powers(distance, exponent, *in_powers(scale))
        found.append((_log2(_shares(t).sum(1)) + t.gather(1, labels[:, None])[:, 0]).sum())
    return torch.stack(found)


def entropies(logits: Tensor, exponent: int) -> int:
    """The sum over samples of the entropy of predictions ``(N, C)``."""
    t = _powers(logits.long().amax(1, keepdim=True) - logits.long(), exponent, *in_powers(1.0))
    u = _shares(t)
    return int((_log2(u.sum(1)) + (u * t).sum(1) // u.sum(1)).sum())
