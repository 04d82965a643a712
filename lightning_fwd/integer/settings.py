"""What can be chosen of an integer step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import LightningFwdError


@dataclass(frozen=True)
class Integer:
    """Settings of training in integers.

    Args:
        room: powers of two by which a weight may outgrow its largest initial value before its row's masters saturate (then the ratchet
            halves the row): 2 for networks from scratch, 0 or 1 for pretrained ones.
        scales: an exponent per ``"row"`` (output) of a weight, or one per ``"tensor"``.
        error_bits: of the widest errors, 8 to 16. Where a sum over many outputs could overflow, fewer are taken.

    Raises:
        LightningFwdError: a setting out of range.
    """

    room: int = 2
    scales: Literal["row", "tensor"] = "row"
    error_bits: int = 16

    def __post_init__(self) -> None:
        if not (0 <= self.room <= 6 and 8 <= self.error_bits <= 16 and self.scales in ("row", "tensor")):
            raise LightningFwdError(
                f"{self!r}", "a setting is out of range", "use room 0 to 6, scales 'row' or 'tensor', error_bits 8 to 16"
            )
