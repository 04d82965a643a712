"""Damage to a file, by a seed: what disks, networks, editors and strangers do to it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

_NUMBERS = (
    "-1",
    "0",
    "nan",
    ".inf",
    "1e400",
    "99999999999999999999",
    "-0.5",
    "7",
    "x",
    "null",
    "true",
    "[1, 2]",
    "{a: 1}",
    "''",
    "2024-99-99",
)
_LINES = (
    "a: &a [1, 1]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nd: &d [*c, *c, *c, *c]\ne: &e [*d, *d, *d, *d]\nf: &f [*e, *e, *e, *e]\n"
    "g: &g [*f, *f, *f, *f]\nh: &h [*g, *g, *g, *g]\ni: &i [*h, *h, *h, *h]\nj: [*i, *i, *i, *i, *i, *i]",
    "x: &x [*x]",
    "[" * 5000,
    "!!python/object/apply:os.getcwd []",
    "? [a, b]\n: c",
    "<<: 3",
    "\x00",
    "1: 2",
    "x: !!int y",
    "x: !!timestamp y",
    "- a",
)
_WORD = re.compile(r"[-\w.=/]+")


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flipped bits, other bytes, a cut, a piece left out, doubled, moved or of noise."""
    changed, kind = bytearray(data), draw.randrange(8)
    at, length = draw.randrange(len(data)), draw.choice((1, 2, 8, 64, 1024))
    if kind < 2:
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        changed[at] = draw.randrange(256)
    elif kind == 3:
        del changed[at:]
    elif kind == 4:
        del changed[at : at + length]
    elif kind == 5:
        changed[at:at] = changed[at : at + length]
    elif kind == 6:
        other = draw.randrange(len(data))
        changed[at : at + length] = changed[other : other + length]
    else:
        changed[at : at + length] = draw.randbytes(length)
    return bytes(changed)


def edited_text(data: bytes, draw: random.Random) -> bytes:
    """A line doubled, left out, moved or put in; a word in another's place, a number that cannot be, quotes and brackets missing."""
    lines, kind = data.decode(errors="replace").splitlines(keepends=True), draw.randrange(8)
    at = draw.randrange(len(lines))
    if kind == 0:
        lines.insert(draw.randrange(len(lines) + 1), lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines.insert(draw.randrange(len(lines)), lines.pop(at))
    elif kind == 3:
        lines.insert(at, draw.choice(_LINES) + "\n")
    else:
        words = list(_WORD.finditer("".join(lines)))
        word, text = draw.choice(words), "".join(lines)
        if kind == 4:
            new = draw.choice(words)[0]
        elif kind == 5:
            new = ""
        else:
            numbers = [w for w in words if re.fullmatch(r"-?[\d.e+-]+", w[0])]
            word, new = draw.choice(numbers or words), draw.choice(_NUMBERS)
        return (text[: word.start()] + new + text[word.end() :]).encode()
    return "".join(lines).encode()


def mutations(data: bytes, count: int, seed: int, *edits: Callable[[bytes, random.Random], bytes]) -> Iterator[tuple[str, bytes]]:
    """``(what was done, the file)``, so many, the same ones for a seed: byte damage and, turn by turn, the edits that the kind of file has.

    Files that came out as they were are drawn again.
    """
    ways = (damaged_bytes, *edits)
    for number in range(count):
        draw, way, changed = random.Random(1_000_003 * seed + number), ways[number % len(ways)], data
        while changed == data:
            changed = way(data, draw)
        yield way.__name__, changed
