"""What a training step may cost: bytes of RAM, operations, or a device by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..cost import load_device
from ..errors import LightningFwdError

_BYTES = {"": 1, "B": 1, "KB": 1000, "KIB": 1024, "MB": 1_000_000, "MIB": 1 << 20}
_OPERATIONS = {"": 1, "K": 1000, "M": 1_000_000, "G": 1_000_000_000}


@dataclass(frozen=True)
class Budget:
    """Upper bounds on one training step; None: unbounded.

    Attributes:
        ram_bytes: peak RAM, weights that the step writes included. macs: operations of all phases.
    """

    ram_bytes: int | None = None
    macs: int | None = None

    def allows(self, ram_bytes: int, macs: int) -> bool:
        """Whether a step of this cost keeps the budget."""
        return (self.ram_bytes is None or ram_bytes <= self.ram_bytes) and (self.macs is None or macs <= self.macs)

    def __str__(self) -> str:
        parts = [f"{self.ram_bytes:,} B RAM"] if self.ram_bytes is not None else []
        return ", ".join(parts + ([f"{self.macs:,} MAC per step"] if self.macs is not None else []))


def parse_budget(spec: str | Mapping[str, object], inference_macs: int, inference_ram: int) -> Budget:
    """Read a budget from the ways people write one.

    Args:
        spec: a device's name (its SRAM), or a mapping with ``ram`` (``"64KB"``, ``"1.5x_inference"``, bytes) and ``macs_per_step``
            (``"20M"``, ``"1.2x_inference"``, a number), either or both.
        inference_macs, inference_ram: of one prediction, what ``x_inference`` refers to.

    Raises:
        LightningFwdError: an unknown device, key or unit, or an amount below 1.
    """
    if isinstance(spec, str) and not spec[:1].isdigit():
        return Budget(ram_bytes=int(load_device(spec).sram_bytes.value))
    if not isinstance(spec, Mapping) or not spec or set(spec) - {"ram", "macs_per_step"}:
        raise LightningFwdError(
            f"budget {spec!r}",
            "expected a device's name or the keys ram and macs_per_step",
            "e.g. {ram: 64KB, macs_per_step: 1.2x_inference}",
        )
    read = {
        "ram": lambda amount: _amount("ram", amount, inference_ram, _BYTES, "65536, 64KB, 64KiB or 1.5x_inference"),
        "macs_per_step": lambda amount: _amount("macs_per_step", amount, inference_macs, _OPERATIONS, "20000000, 20M or 1.2x_inference"),
    }
    amounts = {key: read[key](amount) for key, amount in spec.items()}
    return Budget(amounts.get("ram"), amounts.get("macs_per_step"))


def _amount(key: str, text: object, inference: int, units: Mapping[str, int], such_as: str) -> int:
    """``"64KB"``, ``"1.2x_inference"`` or a number."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(x_inference|[A-Za-z]*)\s*", str(text))
    factor = None if match is None else inference if match[2] == "x_inference" else units.get(match[2].upper())
    if factor is None or (amount := int(float(match[1]) * factor)) < 1:
        raise LightningFwdError(f"budget: cannot read {key}: {text!r}", "", f"write e.g. {such_as}")
    return amount
