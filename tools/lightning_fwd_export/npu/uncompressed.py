"""Weights that a CPU can rewrite: the weight codec's uncompressed mode, with a fixed number of bits per weight at fixed places.

A stream is a series of slices of up to 32,768 weights. Each begins with 36 bits: how zeros run (none do), the slice's length less 1, that
weights are uncompressed, a new palette of no entries, and the bits per weight. A weight is its magnitude with the sign in the lowest bit.
"""

from __future__ import annotations

import numpy as np

from ..errors import ExportError

_SLICE, _HEADER, _BITS = 32768, 36, 8
#: (value, bits): no runs of zeros; then the length (15 bits); uncompressed, none cut, a new palette, without offset, of no entries, bits
#: less 2
_BEFORE_LENGTH, _AFTER_LENGTH = ((6, 3),), ((7, 3), (0, 1), (1, 1), (0, 5), (0, 5), (_BITS - 2, 3))
_END, _END_BITS = 7, 3


def encode_weights(stream: np.ndarray) -> bytes:
    """Weights in the order of the stream, filling included.

    Raises:
        ExportError: a weight of -128, which eight bits with a sign of their own do not hold.
    """
    if np.abs(stream.astype(int)).max(initial=0) > 127:
        raise ExportError("a weight of -128 has no place in the uncompressed format", "", "quantise weights symmetrically")
    bits = _Bits()
    for at in range(0, len(stream), _SLICE):
        part = stream[at : at + _SLICE]
        for value, width in (*_BEFORE_LENGTH, (len(part) - 1, 15), *_AFTER_LENGTH):
            bits.put(value, width)
        for weight in part:
            bits.put(_code(int(weight)), _BITS)
    bits.put(_END, _END_BITS)
    return bits.filled()


def put_weight(data: bytearray, place: int, weight: int) -> None:
    """Rewrite one weight in place; it lies across two bytes, since a slice's header ends in the middle of one."""
    if abs(weight) > 127:
        raise ExportError(f"a weight of {weight}", "the format holds -127..127", "clip it")
    at = _HEADER * (place // _SLICE + 1) + _BITS * place
    byte, shift = divmod(at, 8)
    word = int.from_bytes(data[byte : byte + 2], "little") & ~(0xFF << shift) | _code(weight) << shift
    data[byte : byte + 2] = word.to_bytes(2, "little")


def _code(weight: int) -> int:
    return abs(weight) << 1 | (weight < 0)


class _Bits:
    """A stream of bits, lowest first."""

    def __init__(self) -> None:
        self._value, self._length = 0, 0

    def put(self, value: int, width: int) -> None:
        self._value |= value << self._length
        self._length += width

    def filled(self) -> bytes:
        """Filled up with ones to a multiple of 16 bytes."""
        filling = -self._length % 128
        return (self._value | ((1 << filling) - 1) << self._length).to_bytes((self._length + filling) // 8, "little")
