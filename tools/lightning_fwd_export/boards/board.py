"""The boards, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ExportError

SHIFT = 5  # the emulator's clock: one instruction = 2**5 ns, about one tick of the counters


@dataclass(frozen=True)
class Board:
    """One emulated board.

    Attributes:
        name: the emulator's machine name.
        cpu: core.
        flags: compiler flags that select the core, its FPU and its vector unit.
        flash, ram: (origin, bytes) of code and data memory.
        tick_ns: nanoseconds per tick of the counter the runner reads.
        defines: macros for ``board.h``.
    """

    name: str
    cpu: str
    flags: tuple[str, ...]
    flash: tuple[int, int]
    ram: tuple[int, int]
    tick_ns: float
    defines: tuple[str, ...] = ()

    @property
    def has_fpu(self) -> bool:
        return "-mfloat-abi=hard" in self.flags

    def instructions(self, ticks: int) -> int:
        """What the emulator ran in so many ticks of the counter."""
        return round(ticks * self.tick_ns / 2**SHIFT)


_MPS2 = {"flash": (0x0, 4 << 20), "ram": (0x20000000, 4 << 20), "tick_ns": 40.0}
BOARDS: dict[str, Board] = {
    b.name: b
    for b in (
        Board("mps2-an385", "Cortex-M3", ("-mcpu=cortex-m3",), **_MPS2),  # no FPU: for steps in integers
        Board("mps2-an386", "Cortex-M4", ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), **_MPS2),
        Board("mps2-an500", "Cortex-M7", ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"), **_MPS2),
        Board(
            "mps3-an547",
            "Cortex-M55",
            ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
            (0x0, 512 << 10),
            (0x20000000, 512 << 10),
            31.25,
            ("-DBOARD_SSE_COUNTER",),
        ),
    )
}


def board(name: str) -> Board:
    """The board of that name.

    Raises:
        ExportError: there is none; lists those there are.
    """
    if name not in BOARDS:
        raise ExportError(f"no board {name!r}; known: " + ", ".join(f"{b.name} ({b.cpu})" for b in BOARDS.values()))
    return BOARDS[name]
