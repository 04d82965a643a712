"""Scale and bias records: what an Ethos-U reads for every output channel of a convolution, as 10 plain bytes.

The result of a channel is ``round((accumulator + bias) * scale / 2**shift) + zero_point``, rounded half up. On U55 and U65 a record is bias
(40 bit, signed), scale (32 bit) and shift (6 bit of a byte), little-endian; on U85 the bias has 32 bits and the last byte is 0. Scale and
shift are TOSA's multiplier and shift, with even multipliers halved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ExportError

#: bytes of one record, on every Ethos-U
RECORD = 10


@dataclass(frozen=True)
class Record:
    """One output channel: ``bias`` in units of the accumulator, gain ``scale / 2**shift``."""

    bias: int
    scale: int
    shift: int

    @classmethod
    def of(cls, bias: int, multiplier: int, shift: int) -> Record:
        """From TOSA's constants, as the compiler writes them: halving an even multiplier changes no result."""
        multiplier, shift = int(multiplier), int(shift)
        while multiplier and multiplier % 2 == 0 and shift > 0:
            multiplier, shift = multiplier // 2, shift - 1
        return cls(int(bias), multiplier, shift)

    @classmethod
    def of_gain(cls, bias: float, gain: float) -> Record:
        """The nearest record to a real bias and a positive gain.

        Raises:
            ExportError: a gain that is not positive or too large: the hardware's scale is unsigned and its shift only divides.
        """
        if not 0 < gain < 2.0**31:
            raise ExportError(f"a gain of {gain}", "a record's scale is unsigned and its shift only divides", "keep gains above 0")
        fraction, exponent = np.frexp(gain)
        multiplier, shift = int(float(fraction) * 2**31), 31 - int(exponent)
        if shift > 63:
            multiplier, shift = multiplier >> min(shift - 63, 31), 63
        return cls.of(int(np.clip(np.rint(bias), -(2**31), 2**31 - 1)), multiplier, shift)

    @property
    def gain(self) -> float:
        return self.scale / 2.0**self.shift

    def encode(self, accelerator: str) -> bytes:
        """The ten bytes."""
        scale = self.scale.to_bytes(4, "little")
        if "u85" in accelerator:
            return self.bias.to_bytes(4, "little", signed=True) + scale + bytes([self.shift, 0])
        return self.bias.to_bytes(5, "little", signed=True) + scale + bytes([self.shift])

    @classmethod
    def decode(cls, data: bytes, accelerator: str) -> Record:
        """What ten bytes say."""
        wide = 4 if "u85" in accelerator else 5
        scale, shift = data[wide : wide + 4], data[wide + 4]
        return cls(int.from_bytes(data[:wide], "little", signed=True), int.from_bytes(scale, "little"), shift & 0x3F)
