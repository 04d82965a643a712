"""An Ethos-U command stream, read and written: 32-bit words that set registers or start an operation.

A word holds a 10-bit code, a 16-bit parameter, and whether a payload word follows. Register names are those of Vela's own table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

_PAYLOAD = 0x4000
_MAGIC = b"COP1"
_STREAM_ACTION, _CONFIG_ACTION = 2, 1


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: of the operation (``CONV``) or register (``IFM_BASE0``); hexadecimal for those that a U55 does not have.
        code: as in the word, the payload flag included.
        param: 16 bits of the word itself.
        payload: the word that follows, or None.
    """

    name: str
    code: int
    param: int
    payload: int | None

    @property
    def starts(self) -> bool:
        """Whether it starts an operation, or waits, and not only sets a register."""
        return self.payload is None and self.code < 0x100

    @property
    def value(self) -> int:
        """What a register is set to: payload with the parameter above it (bits 32..47), else the parameter."""
        return self.param if self.payload is None else self.payload | self.param << 32

    def words(self) -> list[int]:
        head = self.code | self.param << 16
        return [head] if self.payload is None else [head, self.payload]


def set_register(name: str, value: int) -> Command:
    """The command that sets a register."""
    code = next(code for code, known in _names().items() if known == name)
    if code & _PAYLOAD:
        return Command(name, code, value >> 32, value & 0xFFFFFFFF)
    return Command(name, code, value, None)


def read_commands(data: bytes) -> tuple[list[Command], int]:
    """Commands of what Vela wrote, and the number of words of the driver's header before them."""
    words = np.frombuffer(data, np.uint32).tolist()
    start, length = _stream(data, words)
    commands, at, names = [], start, _names()
    while at < start + length:
        code, param = words[at] & 0x43FF, words[at] >> 16
        payload = words[at + 1] if code & _PAYLOAD else None
        commands.append(Command(names.get(code, hex(code)), code, param, payload))
        at += 1 if payload is None else 2
    return commands, start


def write_commands(data: bytes, commands: Iterable[Command]) -> bytes:
    """``data`` with its command stream exchanged; the driver's header keeps everything but the length."""
    words = np.frombuffer(data, np.uint32).tolist()
    start, _ = _stream(data, words)
    stream = [word for command in commands for word in command.words()]
    if len(stream) >= 1 << 24:
        raise ValueError(f"a command stream of {len(stream)} words; the driver's header has 24 bits for the number")
    action = words[start - 1] & 0xFF | (len(stream) >> 16) << 8 | (len(stream) & 0xFFFF) << 16
    return np.array([*words[: start - 1], action, *stream], np.uint32).tobytes()


def operations(commands: Iterable[Command]) -> Iterator[tuple[Command, dict[str, int]]]:
    """Every command that starts something, with all registers as they are then. The dictionary is one, updated as the stream goes on."""
    registers: dict[str, int] = {}
    for command in commands:
        if command.starts:
            yield command, registers
        else:
            registers[command.name] = command.value


def _stream(data: bytes, words: list[int]) -> tuple[int, int]:
    """Where the command stream begins, in words, and its length. Before it stand actions of the driver."""
    if data[:4] != _MAGIC:
        raise ValueError(f"no Ethos-U command stream: it starts with {data[:4]!r}, not {_MAGIC!r}")
    at = 1
    while at < len(words):
        action = words[at] & 0xFF
        if action == _STREAM_ACTION:
            return at + 1, words[at] >> 16 | (words[at] >> 8 & 0xFF) << 16
        at += 3 if action == _CONFIG_ACTION else 1
    raise ValueError("no command stream behind the driver's header")


@cache
def _names() -> dict[int, str]:
    from ethosu.vela.ethos_u55_regs.ethos_u55_regs import cmd0, cmd1

    short = {c.value: c.name.removeprefix("NPU_SET_").removeprefix("NPU_OP_") for c in cmd0}
    return short | {c.value | _PAYLOAD: c.name.removeprefix("NPU_SET_") for c in cmd1}
