"""Counts the code of every kernel on every core, the C library's part included, and writes ``sizes.json``.

    python -m lightning_fwd_export.code_size.count

To be run after any change of ``csrc`` (a test says so).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..boards import BOARDS
from ..boards.board import Board
from ..boards.build import FOOTPRINT, GCC, STARTUP, board_flags, compile_object, kernel_objects
from ..generate_c import CSRC
from ..host.runtime import run_tool
from . import TABLE
from .sections import Graph, read_object

_LIBRARIES = ("libc_nano.a", "libnosys.a", "libm.a", "libgcc.a")
_METHODS = """static void footprint_call(void *buffer)
{
    lfwd_train_step(buffer, buffer, buffer, buffer);
    lfwd_forward(buffer, buffer);
    lfwd_get_weights(buffer);
    lfwd_set_weights(buffer);
}
"""
_HEADER = """#include <stdint.h>
void lfwd_init(void);
void lfwd_train_step(const float *, const int64_t *, float *, float *);
void lfwd_forward(const float *, float *);
void lfwd_get_weights(uint8_t *);
void lfwd_set_weights(const uint8_t *);
"""


def digest() -> str:
    """Of the kernels and of what they are compiled with."""
    files = [p.name.encode() + p.read_bytes() for p in sorted(CSRC.glob("*.[ch]"))]
    flags = [" ".join(board_flags(b)).encode() for b in BOARDS.values()]
    return hashlib.sha256(b"".join([*files, *flags])).hexdigest()[:16]


def count(board: Board, work: Path) -> dict[str, Any]:
    """Units (name, Flash, RAM), the units that each function reaches, and those of the bare firmware."""
    flags = board_flags(board)
    kernels = [Path(o) for o in kernel_objects(CSRC, flags)]
    (work / "footprint_methods.h").write_text(_METHODS)
    (work / "lfwd_model.h").write_text(_HEADER)
    include = [f"-I{work}", f"-I{FOOTPRINT.parent}"]
    loose = [f for f in flags if not f.startswith(("-W", "-std"))] + list(board.defines)
    firmware = [Path(compile_object(source, work, [*loose, *include])) for source in (STARTUP, FOOTPRINT)]
    members = [m for library in _LIBRARIES for m in _members(library, board, work)]
    paths = [*firmware, *kernels, *members]
    graph = Graph(read_object(p) for p in paths)
    units: dict[tuple[int, int], int] = {}
    listed: list[list[Any]] = []

    def numbers(*names: str) -> list[int]:
        for at in sorted(graph.reached(*names) - set(units)):
            section = graph.objects[at[0]].sections[at[1]]
            units[at] = len(listed)
            listed.append([f"{paths[at[0]].stem} {section.name}", section.flash, section.ram])
        return sorted(units[at] for at in graph.reached(*names))

    functions = [n for k in range(len(firmware), len(firmware) + len(kernels)) for n in graph.objects[k].defines]
    base = numbers("Reset_Handler", "main", "vectors")
    entries = {name: numbers(name) for name in [*functions, "memcpy", "memset"]}
    vectors = [64, 0]  # 16 words that the start-up code keeps by an attribute
    listed.append(["vectors", *vectors])
    return {"units": listed, "entries": entries, "base": [*base, len(listed) - 1]}


def _members(library: str, board: Board, work: Path) -> Iterator[Path]:
    archive = run_tool([GCC, *board.flags, "-mthumb", f"-print-file-name={library}"], "asking for a library").strip()
    folder = work / library
    folder.mkdir()
    run_tool(["arm-none-eabi-ar", "x", archive, "--output", str(folder)], f"unpacking {library}")
    return (p for p in sorted(folder.iterdir()) if p.read_bytes()[:4] == b"\x7fELF")


def main() -> None:
    counted = {}
    for board in BOARDS.values():
        with tempfile.TemporaryDirectory() as folder:
            counted[board.cpu] = count(board, Path(folder))
    version = run_tool([GCC, "-dumpfullversion"], "asking the compiler for its version").strip()
    found = {"compiler": f"{GCC} {version} -O2", "kernels": digest(), "cores": counted}
    TABLE.write_text(json.dumps(found, separators=(",", ":")).replace('"entries"', '\n"entries"').replace("],[", "],\n[") + "\n")


if __name__ == "__main__":
    main()
