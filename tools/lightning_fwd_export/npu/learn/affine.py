"""Gain and offset of every channel, and the records that realise them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Record

F32 = np.float32
#: gains stay above it: a record's scale is unsigned
SMALLEST_GAIN = F32(1e-4)
#: the largest float32 below 2**31
_MOST = F32(2147483520)


@dataclass
class Affine:
    """One layer: ``stored = zero_point + gain * (as compiled - zero_point) + offset``, each per channel, float32 ``(C,)``.

    Attributes:
        bias, scale: of the records as compiled; ``scale`` is multiplier over power of two.
        gain: above 0. offset: in steps of the layer's int8 output.
        compiled: these records themselves, which a gain of 1 and an offset of 0 give back to the bit; empty where they mean another gain.
    """

    bias: np.ndarray
    scale: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    compiled: tuple[Record, ...] = ()

    @classmethod
    def neutral(cls, records: Sequence[Record]) -> Affine:
        bias, scale = F32([r.bias for r in records]), F32([r.gain for r in records])
        return cls(bias, scale, np.ones_like(bias), np.zeros_like(bias), tuple(records))

    def records(self, gain: np.ndarray | None = None, offset: np.ndarray | None = None) -> list[Record]:
        """Records of this gain and offset (default: the layer's own)."""
        gain, offset = self.gain if gain is None else gain, self.offset if offset is None else offset
        scale = np.maximum(gain, SMALLEST_GAIN) * self.scale
        bias = np.clip(np.rint(self.bias + offset / scale), -_MOST, _MOST)
        records = [Record.of_gain(float(b), float(s)) for b, s in zip(bias, scale, strict=True)]
        if not self.compiled:
            return records
        neutral = (gain == 1) & (offset == 0)
        return [old if same else new for old, new, same in zip(self.compiled, records, neutral, strict=True)]
