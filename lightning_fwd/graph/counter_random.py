"""Random numbers as a function of (seed, counter): no state, the same in Python and in C.

The generator hashes a 32-bit index. Nothing random in a training step depends on a global generator, so a resumed or exported step draws
what the original would have drawn, and a feedback matrix can be regenerated entry by entry instead of stored. A rule adds its steps to
``hash32`` of its own seed: added to the seed itself, seed 1 would draw at one step what seed 0 draws at the next.
The mixing function is the two-multiply 32-bit finaliser "lowbias32" (Wellons, hash-prospector; public domain).

What a seed is: there is one cycle of 2**32 values, ``hash32(0), hash32(1), ...``, and a seed is the window that starts at place
``hash32(seed)``.
Windows are not independent streams. Two seeds whose places lie closer than the number of draws share the rest: seeds 798 and 1135 lie 539
apart, so of 30,720 draws (ResNet-8's feedback matrix) they share 30,181. Of the seeds 0 to 99 the closest two, 28 and 72, lie 68,865 apart.
For n runs of k draws choose seeds whose places (:func:`hash32`) are more than k apart.

The C of an exported step has the same generator, bit for bit (``csrc/feedback_f32.c``). What is random in a data set has another one, which
has no
windows to share: :mod:`lightning_fwd.data.sample_random`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from .across_ranks import share, whole_shape
from .phase import is_traced

_MASK = 0xFFFFFFFF
#: of :func:`uniform` on a device with 32-bit integers: the counter, eight of :func:`hash32`, a shift, the conversion, a product and a
#: difference
OPERATIONS_PER_DRAW = 13


def hash32(x: Tensor | int) -> Tensor | int:
    """Mix 32-bit values, one int or an int64 tensor of them; result in ``[0, 2**32)``, same shape. ``hash32(0) == 0``."""
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def random_bits(seed: int | Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """``shape`` 32-bit values as int64, a window of the one cycle: entry i is ``hash32(i + hash32(seed))``."""
    if not is_traced():
        if type(seed) is Tensor and seed.is_cpu:  # of one number Python is quicker; a traced one has no value
            device, seed = device if device is not None else seed.device, int(seed)
        if isinstance(seed, int) and device is not None and device.type == "cpu":
            return torch.from_numpy(hashed(math.prod(shape), cast(int, hash32(seed))).astype(np.int64)).reshape(tuple(shape))
    index = torch.arange(math.prod(shape), device=seed.device if device is None and isinstance(seed, Tensor) else device)
    return cast(Tensor, hash32(index + hash32(seed))).reshape(tuple(shape))


def hashed(count: int, place: int) -> np.ndarray:
    """:func:`hash32` of ``count`` values from ``place`` on, as uint32; numpy has 32-bit integers that wrap, and asks less per operation."""
    x = np.arange(place, place + count, dtype=np.uint64).astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x


def uniform(seed: int | Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """float32 values in ``[-1, 1)``, multiples of ``2**-23`` (exact in C as well)."""
    return (random_bits(seed, shape, device) >> 8).to(torch.float32) * 2.0**-23 - 1.0


def random_bits_of_samples(seed: int | Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """:func:`random_bits` for samples ``(B, ...)``: of a batch that is spread over ranks, this rank's part of the draws for all."""
    return share(random_bits(seed, whole_shape(shape), device))


def uniform_of_samples(seed: int | Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """:func:`uniform` for samples ``(B, ...)``, as :func:`random_bits_of_samples`."""
    return share(uniform(seed, whole_shape(shape), device))


def wrong_labels(target: Tensor, num_classes: int, seed: int | Tensor) -> Tensor:
    """For each label one of the other ``num_classes - 1``, uniformly (to within 2**-32); never the true one."""
    if isinstance(seed, int) and type(target) is Tensor and target.is_cpu and not is_traced():
        draws = hashed(math.prod(whole_shape(target.shape)), cast(int, hash32(seed))) % np.uint32(num_classes - 1)
        own = cast(np.ndarray, share(cast(Tensor, draws.astype(np.int64))))  # of samples only their order counts
        return torch.from_numpy((target.numpy() + 1 + own) % num_classes)
    offset = random_bits_of_samples(seed, target.shape, target.device) % (num_classes - 1)
    return (target + 1 + offset) % num_classes


def number(counter: Tensor) -> int | Tensor:
    """A counter as a number of Python's, where its value is at hand: a seed made from it then costs no tensor operation."""
    return int(counter) if type(counter) is Tensor and counter.is_cpu and not is_traced() else counter
