"""Bytes of a program's own functions: the instructions of its calls, counted as a compiler for Thumb-2 lays them down."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_FUNCTION = re.compile(r"(?ms)^void lfwd_\w+\(([^\n]*)\)\n\{\n(.*?)^\}")
_STATEMENT = re.compile(r"(?m)^    (?!\w[\w ]*\*const )[^/\n]*?\b(\w+)\((.*)\);(?: /\*.*)?$")
_TENSOR = re.compile(r"(?m)^    \w[\w ]*\*const (\w+) = \(void \*\)\((\w+) \+ (\d+)\);")
_PLACE = re.compile(r"(?:\(void \*\)\()?(\w+)(?: \+ (\d+))?\)?")
_BYTES = re.compile(r"int8_t (\w+)\[")
_NUMBER = re.compile(r"-?\d+")

# Thumb-2, bytes. An instruction is narrow where its registers and its literal are small; other literals are a word behind the function.
FUNCTION, CALL, NARROW, WIDE, WORD = 12, 4, 2, 4, 4
STORED = 3  # what does not fit into r0..r3: STR, narrow or wide, or half of a STRD
STRUCT = 12  # by value: LDM and STM, and LDM again into registers
WITHOUT_A_CALL = {"memcpy": 64, "memset": 31}  # up to so many bytes a compiler writes the loads and stores out, for each 16 bytes:
PIECE, LAST_PIECE, BYTES_PIECE = 6, 8, 20  # LDM and STM, half of them narrow; the last without writeback is wide; LDM and four STR


def own_code(source: str) -> int:
    """Bytes of all functions in the text of ``lfwd_model.c``, the literals between them included."""
    return sum(_Function(parameters, body).size for parameters, body in _FUNCTION.findall(source))


@dataclass
class _Function:
    """``held``: addresses that the call before had in registers; ``words``: literals that the function has loaded before."""

    parameters: str
    body: str
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    held: set[tuple[str, int]] = field(default_factory=set)
    words: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        self.places = {name: (arena, int(at)) for name, arena, at in _TENSOR.findall(self.body)}
        return FUNCTION + sum(self._statement(name, arguments(text)) for name, text in _STATEMENT.findall(self.body))

    def _statement(self, name: str, given: list[str]) -> int:
        before, self.held = self.held, set()
        if _NUMBER.fullmatch(given[-1]) and int(given[-1]) <= WITHOUT_A_CALL.get(name, 0):
            return self._copy(given[: 2 if name == "memcpy" else 1], -(-int(given[-1]) // 16), before)
        sizes = [self._argument(a, before) for a in given]
        return CALL + sum(size for size, _ in sizes) + STORED * max(0, sum(registers for _, registers in sizes) - 4)

    def _copy(self, addresses: list[str], pieces: int, before: set[tuple[str, int]]) -> int:
        """``pieces``: of 16 bytes. A caller's bytes have their offset in the instruction, and a loop takes them from the third piece on."""
        if of_bytes := set(_BYTES.findall(self.parameters)).intersection(a.split()[0] for a in addresses):
            return BYTES_PIECE * min(pieces, 2) + sum(self._argument(a, before)[0] for a in addresses if a.split()[0] not in of_bytes)
        return PIECE * (pieces - 1) + LAST_PIECE + sum(self._argument(a, before)[0] for a in addresses)

    def _argument(self, text: str, before: set[tuple[str, int]]) -> tuple[int, int]:
        """Bytes of an argument, and the core registers that it takes."""
        if _NUMBER.fullmatch(text):
            return NARROW if 0 <= int(text) < 256 else WIDE, 1
        if text.startswith("(lfwd_"):
            return STRUCT + self._literal(text), 3
        if re.search(r"\d\.|lfwd_rate", text):
            return WIDE + self._literal(text), 0
        if (place := self._place(text)) is not None:
            held = place in before or place in self.held
            self.held.add(place)
            return NARROW if held else WIDE, 1
        return NARROW + (0 if text in self.parameters else self._literal(text)), 1

    def _place(self, text: str) -> tuple[str, int] | None:
        """Where in the planned memory or in a parameter an address points to; constants are no such place."""
        match = _PLACE.fullmatch(text)
        if match is None or not (match[1] in self.places or match[2]):
            return None
        arena, at = self.places.get(match[1], (match[1], 0))
        return arena, at + int(match[2] or 0) * (4 if match[1] in self.places else 1)

    def _literal(self, text: str) -> int:
        new = text not in self.words
        self.words.add(text)
        return WORD if new else 0


def arguments(text: str) -> list[str]:
    """What stands between the commas of a call, those within brackets apart."""
    depth, found = 0, [""]
    for letter in text:
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [a.strip() for a in found]
