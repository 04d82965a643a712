"""Counts the code of every kernel on every core, the C library's part included, and writes ``sizes.json``; the same of what runs an
adaptation (``firmware``) in ``firmware_sizes.json``.

    python -m lightning_fwd_export.code_size.count [--firmware]

To be run after any change of ``csrc``, with ``--firmware`` (then that file alone) after one of ``firmware`` (tests say so).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fwd.adaptation.drift_score import DriftScore

from ..boards import BOARDS
from ..boards.board import Board
from ..boards.build import FOOTPRINT, GCC, STARTUP, board_flags, compile_object, kernel_objects
from ..c_code.drift import DRIFT, write_drift
from ..c_code.front_end import FRONT_END, INTEGER_FRONT_END, write_front_end, write_integer_front_end
from ..c_code.stages import INTEGER, TYPES
from ..generate_c import CSRC, FIRMWARE
from ..host.runtime import run_tool
from . import BYTES, INTEGERS, LOOP_TABLE, TABLE
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

#: what the loop on the device is compiled with, in the place of a program's own header
_ADAPTATION = """#ifndef LFWD_MODEL_H
#define LFWD_MODEL_H
#include <stdint.h>
#define LFWD_STAGES 3
#define LFWD_CLASSES 10
#define LFWD_INPUT 1000
#define LFWD_MOST_BATCH 4
#define LFWD_UNDO_BYTES 4000
#define LFWD_DEFAULT_SAMPLES 100
typedef struct {
    uint8_t *bytes;
    uint32_t count;
} lfwd_region;
"""


def digest(folder: Path = CSRC) -> str:
    """Of the kernels (or the loop: ``FIRMWARE``) and of what they are compiled with."""
    files = [p.name.encode() + p.read_bytes() for p in sorted(folder.glob("*.[ch]"))]
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
    units = _Units(graph, paths)
    functions = [n for k in range(len(firmware), len(firmware) + len(kernels)) for n in graph.objects[k].defines]
    base = units.numbers("Reset_Handler", "main", "vectors")
    entries = {name: units.numbers(name) for name in [*functions, "memcpy", "memset"]}
    vectors = [64, 0]  # 16 words that the start-up code keeps by an attribute
    units.listed.append(["vectors", *vectors])
    return {"units": units.listed, "entries": entries, "base": [*base, len(units.listed) - 1]}


def count_loop(board: Board, work: Path) -> dict[str, Any]:
    """The same of what runs an adaptation: buffer (of floats, and of bytes) and loop, both in integers too, and the front end."""
    (work / FRONT_END).write_text(write_front_end())
    (work / INTEGER_FRONT_END).write_text(write_integer_front_end())
    one = np.zeros(1, np.float32)
    (work / DRIFT).write_text(write_drift(DriftScore(one, one, one[None], 0.1, 0.1), 0.1))
    _write_header(work, "float", "void lfwd_forward(const float *, float *);\n")
    flags = [*board_flags(board), f"-I{work}", f"-I{FIRMWARE}", f"-I{CSRC}"]
    sources = [FIRMWARE / f"lfwd_{name}.c" for name in ("adapt", "samples", "mfcc", "mfcc_integer", "drift")]
    paths = [Path(compile_object(source, work, flags)) for source in sources]
    other = work / "int8"
    other.mkdir()
    paths.append(Path(compile_object(sources[1], other, [*flags, "-DLFWD_SAMPLES_INT8", f"-Dlfwd_samples_add=lfwd_samples_add{BYTES}"])))
    whole = work / "integer"
    whole.mkdir()
    _write_header(whole, "int8_t", f"{INTEGER}\nvoid lfwd_forward(const int8_t *, int32_t *, int8_t *);\n")
    in_integers = [*board_flags(board), f"-I{whole}", f"-I{FIRMWARE}", f"-I{CSRC}"]
    others = {n for path in paths for n in read_object(path).defines if n.startswith(("lfwd_adapt", "lfwd_samples"))}
    in_integers += [f"-D{name}={name}{INTEGERS}" for name in sorted(others) if BYTES not in name]
    paths += [Path(compile_object(source, whole, in_integers)) for source in sources[:2]]
    own = len(paths)
    paths += [m for library in _LIBRARIES for m in _members(library, board, work)]
    graph = Graph(read_object(p) for p in paths)
    units = _Units(graph, paths)
    entries = {n: units.numbers(n) for k in range(own) for n in graph.objects[k].defines if not n.startswith("lfwd_stages")}
    return {"units": [[name, flash] for name, flash, _ in units.listed], "entries": entries}


def _write_header(folder: Path, value: str, forward: str) -> None:
    """The program's header as the loop sees it: with values of this type, and this prediction."""
    (folder / "lfwd_model.h").write_text(f"{_ADAPTATION}{forward}typedef {value} lfwd_value;\n{TYPES}\n#endif\n")


class _Units:
    """Sections by number, in the order in which they are met; ``listed``: name, Flash, RAM of each."""

    def __init__(self, graph: Graph, paths: list[Path]):
        self.graph, self.paths, self._places = graph, paths, dict[tuple[int, int], int]()
        self.listed: list[list[Any]] = []

    def numbers(self, *names: str) -> list[int]:
        """Of all that these symbols keep."""
        reached = self.graph.reached(*names)
        for at in sorted(reached - set(self._places)):
            section = self.graph.objects[at[0]].sections[at[1]]
            self._places[at] = len(self.listed)
            self.listed.append([f"{self.paths[at[0]].stem} {section.name}", section.flash, section.ram])
        return sorted(self._places[at] for at in reached)


def _members(library: str, board: Board, work: Path) -> Iterator[Path]:
    archive = run_tool([GCC, *board.flags, "-mthumb", f"-print-file-name={library}"], "asking for a library").strip()
    folder = work / library
    folder.mkdir()
    run_tool(["arm-none-eabi-ar", "x", archive, "--output", str(folder)], f"unpacking {library}")
    return (p for p in sorted(folder.iterdir()) if p.read_bytes()[:4] == b"\x7fELF")


def _write(table: Path, counting: Callable[[Board, Path], dict[str, Any]], sources: str, folder: Path) -> None:
    counted = {}
    for board in BOARDS.values():
        with tempfile.TemporaryDirectory() as work:
            counted[board.cpu] = counting(board, Path(work))
    version = run_tool([GCC, "-dumpfullversion"], "asking the compiler for its version").strip()
    found = {"compiler": f"{GCC} {version} -O2", sources: digest(folder), "cores": counted}
    table.write_text(json.dumps(found, separators=(",", ":")).replace('"entries"', '\n"entries"').replace("],[", "],\n[") + "\n")


def main() -> None:
    if "--firmware" not in sys.argv[1:]:
        _write(TABLE, count, "kernels", CSRC)
    _write(LOOP_TABLE, count_loop, "firmware", FIRMWARE)


if __name__ == "__main__":
    main()
