"""Counts the code of every kernel on every core, the C library's part included, and writes ``sizes.json``.

    python -m lightning_fwd_export.code_size.count

To be run after any change of ``csrc`` (a test says so). What a call in the generated C takes is fitted over a few small programs.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lightning_fwd as lf
from lightning_fwd.models import MODELS

from ..boards import BOARDS
from ..boards.board import Board
from ..boards.build import FOOTPRINT, GCC, STARTUP, board_flags, compile_object, kernel_objects
from ..export_step import build
from ..generate_c import CSRC, translate
from ..host.runtime import run_tool
from ..quiet import quiet
from . import TABLE, features
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


def count(board: Board, specimens: list[tuple[str, dict[str, str]]], work: Path) -> dict[str, Any]:
    """Units (name, Flash, RAM), the units that each function reaches, those of the bare firmware, bytes per feature of a program's own
    code."""
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
    return {"units": listed, "entries": entries, "base": [*base, len(listed) - 1], "model": _fit(specimens, flags, work)}


def _members(library: str, board: Board, work: Path) -> Iterator[Path]:
    archive = run_tool([GCC, *board.flags, "-mthumb", f"-print-file-name={library}"], "asking for a library").strip()
    folder = work / library
    folder.mkdir()
    run_tool(["arm-none-eabi-ar", "x", archive, "--output", str(folder)], f"unpacking {library}")
    return (p for p in sorted(folder.iterdir()) if p.read_bytes()[:4] == b"\x7fELF")


def _fit(specimens: list[tuple[str, dict[str, str]]], flags: list[str], work: Path) -> list[float]:
    """Bytes per function, call and argument of generated code, by least squares relative to each program's size."""
    rows, sizes = [], []
    for name, files in specimens:
        folder = work / f"specimen {name}"
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        found = read_object(Path(compile_object(folder / "lfwd_model.c", folder, [*flags, f"-I{folder}", f"-I{CSRC}"])))
        rows.append(features(files["lfwd_model.c"]))
        sizes.append(sum(s.flash for s in found.sections.values() if s.name.startswith(".text")))
    scaled = np.array(rows, float) / np.array(sizes, float)[:, None]
    return [round(float(v), 3) for v in np.linalg.lstsq(scaled, np.ones(len(sizes)), rcond=None)[0]]


def specimens() -> list[tuple[str, dict[str, str]]]:
    """Small programs of several rules: name and generated files."""
    found = []
    for network in ("mlp", "small_conv"):
        for name, method in (
            ("backprop", lf.Backprop(batch_norm="freeze")),
            ("pepita", lf.Pepita()),
            ("head", lf.SparseUpdate(train="head")),
        ):
            torch.manual_seed(0)
            net = MODELS[network]()
            batch = torch.randn(1, *net.input_shape), torch.zeros(1, dtype=torch.int64)
            with quiet():
                program, _ = build(lf.rewrite(net, method, batch[0]), batch, torch.nn.functional.cross_entropy, 0.01, 0.0, None, False)
                found.append((f"{network} {name}", translate(program.data)[1].files))
    return found


def main() -> None:
    programs = specimens()
    counted = {}
    for board in BOARDS.values():
        with tempfile.TemporaryDirectory() as folder:
            counted[board.cpu] = count(board, programs, Path(folder))
    version = run_tool([GCC, "-dumpfullversion"], "asking the compiler for its version").strip()
    found = {"compiler": f"{GCC} {version} -O2", "kernels": digest(), "cores": counted}
    TABLE.write_text(json.dumps(found, separators=(",", ":")).replace('"entries"', '\n"entries"').replace("],[", "],\n[") + "\n")


if __name__ == "__main__":
    main()
