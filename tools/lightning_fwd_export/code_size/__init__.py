"""How large a program's code will be, no compiler needed: a table of counted kernels, and its own calls counted from their text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..c_code.writer import Written
from ..errors import ExportError
from .calls import own_code

TABLE = Path(__file__).with_name("sizes.json")
_CALLED = re.compile(r"\b(lfwd_\w+|mem\w+)\(")


@dataclass(frozen=True)
class CodeSize:
    """Bytes beside constants and planned memory.

    Attributes:
        kernels: the functions that the program reaches, those of the C library included.
        calls: its own functions, one call after the other.
        firmware: start-up code and ``main`` of the smallest firmware around it.
        ram: static data of the C library that the kernels bring along (``errno`` of ``expf`` and ``logf``).
    """

    kernels: int
    calls: int
    firmware: int
    ram: int

    @property
    def flash(self) -> int:
        return self.kernels + self.calls + self.firmware


@cache
def table() -> dict[str, Any]:
    """What ``python -m lightning_fwd_export.code_size.count`` wrote."""
    return json.loads(TABLE.read_text())


def cores() -> list[str]:
    """Cores that there is a table of."""
    return list(table()["cores"])


def code_size(source: str, core: str = "Cortex-M4") -> CodeSize:
    """Predict from the text of ``lfwd_model.c``.

    Raises:
        ExportError: no table of that core, or the program calls a function that was not counted.
    """
    sizes = table()["cores"].get(core)
    if sizes is None:
        raise ExportError(
            f"no code sizes of {core}", f"counted were {', '.join(cores())}", "count them: python -m lightning_fwd_export.code_size.count"
        )
    own = {f"lfwd_{name}" for name in re.findall(r"(?m)^void lfwd_(\w+)\(", source)}
    called = set(_CALLED.findall(source)) - own
    if unknown := sorted(called - set(sizes["entries"])):
        raise ExportError(
            f"the code size of {', '.join(unknown)} was never counted",
            "the table is older than the kernels",
            "run python -m lightning_fwd_export.code_size.count",
        )
    base = set(sizes["base"])
    reached = {unit for name in called for unit in sizes["entries"][name]} - base
    kernels, firmware = (sum(sizes["units"][unit][1] for unit in part) for part in (reached, base))
    ram = sum(sizes["units"][unit][2] for unit in reached | base)
    return CodeSize(kernels, own_code(source), firmware, ram)


def shipped_ram(written: Written) -> dict[str, int]:
    """Static memory of a program as generated, bytes by name: its arrays and what the C library brings along. The stack is not in it."""
    library = code_size(written.files["lfwd_model.c"]).ram
    return written.ram | ({"C library": library} if library else {})


def shipped_flash(written: Written) -> dict[str, int]:
    """Bytes of constants and code by core, of the smallest firmware around a program."""
    return {core: written.constants + code_size(written.files["lfwd_model.c"], core).flash for core in cores()}
