"""How large a program's code will be, no compiler needed: a table of counted kernels, and its own calls counted from their text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..c_code.writer import Written
from ..errors import ExportError
from .calls import own_code

TABLE, LOOP_TABLE = (Path(__file__).with_name(name) for name in ("sizes.json", "firmware_sizes.json"))
BYTES = "_int8"  #: behind ``lfwd_samples_add`` in the table: of the buffer that keeps a byte for each value
INTEGERS = "_integer"  #: behind every function of the loop: of that without floats
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
def table(path: Path = TABLE) -> dict[str, Any]:
    """What ``python -m lightning_fwd_export.code_size.count`` wrote."""
    return json.loads(path.read_text())


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
    base, reached = _reached(sizes, called)
    kernels, firmware = (sum(sizes["units"][unit][1] for unit in part) for part in (reached, base))
    ram = sum(sizes["units"][unit][2] for unit in reached | base)
    return CodeSize(kernels, own_code(source), firmware, ram)


def _reached(sizes: dict[str, Any], called: Iterable[str]) -> tuple[set[int], set[int]]:
    """Units of the bare firmware, and those that functions bring along beside them."""
    base = set(sizes["base"])
    return base, {unit for name in called for unit in sizes["entries"][name]} - base


def loop_code(source: str, entries: Iterable[str], core: str) -> int:
    """Bytes that functions of ``firmware`` take beside a program's own: theirs, and what of the C library the program does not have.

    The front end's tables are constants of it and counted.

    Args:
        source: ``lfwd_model.c``. entries: names of the functions that a firmware calls.
    """
    sizes, loop = table()["cores"][core], table(LOOP_TABLE)["cores"][core]
    base, reached = _reached(sizes, set(_CALLED.findall(source)) & set(sizes["entries"]))
    there = {sizes["units"][unit][0] for unit in base | reached}
    return sum(flash for name, flash in (loop["units"][u] for u in {u for e in entries for u in loop["entries"][e]}) if name not in there)


def shipped_ram(written: Written) -> dict[str, int]:
    """Static memory of a program as generated, bytes by name: its arrays and what the C library brings along. The stack is not in it."""
    library = code_size(written.files["lfwd_model.c"]).ram
    return written.ram | ({"C library": library} if library else {})


def shipped_flash(written: Written) -> dict[str, int]:
    """Bytes of constants and code by core, of the smallest firmware around a program."""
    return {core: written.constants + code_size(written.files["lfwd_model.c"], core).flash for core in cores()}
