"""Sections of object files and what each needs: the graph along which a linker keeps code (``--gc-sections``).

ELF for 32 bits, as in System V ABI edition 4.1 and "ELF for the Arm Architecture" (IHI 0044).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_SYMBOLS, _RELA, _NOBITS, _REL = 2, 4, 8, 9
_WRITE, _ALLOCATED = 1, 2


@dataclass
class Section:
    """Bytes in Flash and RAM, rounded up to words; ``needs``: sections of the same file by number, and symbols of others."""

    name: str
    flash: int
    ram: int
    needs: set[int | str] = field(default_factory=set)


@dataclass
class Object:
    sections: dict[int, Section]
    defines: dict[str, int]


def read_object(path: Path) -> Object:
    """Allocated sections and global symbols of a relocatable file."""
    data = path.read_bytes()
    offset, size, count, names = (*struct.unpack_from("<I", data, 32), *struct.unpack_from("<HHH", data, 46))
    headers = [struct.unpack_from("<10I", data, offset + size * k) for k in range(count)]

    def text(table: int, at: int) -> str:
        start = headers[table][4] + at
        return data[start : data.index(b"\0", start)].decode()

    found = Object({}, {})
    for k, (name, kind, flags, _, _, length, *_) in enumerate(headers):
        if flags & _ALLOCATED and kind < 0x70000000:
            words = -(-length // 4) * 4
            ram = words if flags & _WRITE else 0
            found.sections[k] = Section(text(names, name), 0 if kind == _NOBITS else words, ram)
    table = next(h for h in headers if h[1] == _SYMBOLS)
    symbols = [struct.unpack_from("<IIIBBH", data, table[4] + 16 * k) for k in range(table[5] // 16)]
    for name, _, _, info, _, section in symbols:
        if info >> 4 in (1, 2) and section in found.sections:
            found.defines[text(table[6], name)] = section
    for header in headers:
        if header[1] in (_REL, _RELA) and header[7] in found.sections:
            for at in range(header[4], header[4] + header[5], header[9]):
                name, _, _, _, _, section = symbols[struct.unpack_from("<I", data, at + 4)[0] >> 8]
                found.sections[header[7]].needs.add(section if section else text(table[6], name))
    return found


class Graph:
    """All objects of a firmware; a symbol is the first object's that defines it."""

    def __init__(self, objects: Iterable[Object]):
        self.objects = list(objects)
        self.symbols: dict[str, tuple[int, int]] = {}
        for k, found in enumerate(self.objects):
            for name, section in found.defines.items():
                self.symbols.setdefault(name, (k, section))

    def reached(self, *names: str) -> set[tuple[int, int]]:
        """Sections that these symbols keep, as (object, section)."""
        open_, done = [self.symbols[n] for n in names if n in self.symbols], set()
        while open_:
            at = open_.pop()
            if at in done or at[1] not in self.objects[at[0]].sections:
                continue
            done.add(at)
            for need in self.objects[at[0]].sections[at[1]].needs:
                if isinstance(need, int):
                    open_.append((at[0], need))
                elif need in self.symbols:
                    open_.append(self.symbols[need])
        return done
