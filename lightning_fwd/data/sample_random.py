"""Random numbers addressed by sample, not drawn in sequence.

A drifted data set must look the same whatever the batch size, the shuffle, the rank or the device, so the noise of
a sample may only depend on the sample's index. A counter-based generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) gives that without one generator object per sample. The mixing function is SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

Not the generator of a training step (:mod:`lightning_fwd.graph.counter_random`), which has to run on 32-bit integers in C: here each (seed,
stream, name, sample) is a window that starts at a hash of all four in a cycle of 2**64. Two windows of n draws share some with a
probability of 2n / 2**64: 1e-13 for a million draws.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # torch has no uint64 arithmetic: the same bits as a signed integer
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


class SampleRandom:
    """Random tensors whose row b is a function of `seed`, `stream` and `index[b]` only.

    Args:
        index: (B,) int64, what identifies each sample.
        seed: seed of the whole family.
        stream: a label; two streams of one seed are independent.
    """

    def __init__(self, index: Tensor, seed: int, stream: str) -> None:
        self.index, self.seed, self.stream = index, seed, stream

    def uniform(self, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) float32, uniform on the open interval (0, 1)."""
        sample = _mix(self.index * _GOLDEN + self._key(name))
        counter = torch.arange(1, math.prod(shape) + 1, device=self.index.device) * _GOLDEN
        bits = _mix(sample[:, None] + counter)
        # 23 bits plus a half: the largest value still rounds below 1, where the normal quantile would be infinite.
        return ((bits >> 41) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23).view(len(sample), *shape)

    def normal(self, *shape: int, name: str = "") -> Tensor:
        """(B, *shape) float32, standard normal (by the quantile function)."""
        return self.uniform(*shape, name=name).mul_(2).sub_(1).erfinv_().mul_(math.sqrt(2))

    def shared_signs(self, *shape: int, name: str = "") -> Tensor:
        """(1, *shape) of -1 and 1, the same for every sample: what belongs to the sensor rather than to the sample."""
        one = SampleRandom(torch.zeros(1, dtype=torch.int64, device=self.index.device), self.seed, self.stream)
        return one.uniform(*shape, name=name).sub_(0.5).sign_()

    def _key(self, name: str) -> int:
        label = f"{self.seed}/{self.stream}/{name}".encode()
        return int.from_bytes(hashlib.blake2b(label, digest_size=8).digest(), "little", signed=True)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place. The masks turn torch's arithmetic shift into the logical one."""
    z ^= (z >> 30) & 0x3FFFFFFFF
    z *= _MIX_1
    z ^= (z >> 27) & 0x1FFFFFFFFF
    z *= _MIX_2
    z ^= (z >> 31) & 0x1FFFFFFFF
    return z
