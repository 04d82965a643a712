"""An example firmware around a library: main, start-up code, linker script, build files, and samples as constants."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from torch import Tensor

from ..boards import Board
from ..boards.build import STARTUP, write_link_script
from ..c_code.kernels import number
from ..errors import ExportError
from .on_board import as_read, macros_of

_TEMPLATES = Path(__file__).parent / "example"


def write_example(folder: Path, board: Board, x: Tensor, y: Tensor, test: Tensor, truth: Tensor) -> None:
    """Write it beside the library's folder ``c``, whose names begin with ``lfwd_``.

    Args:
        folder: made if missing; of an example before nothing is kept.
        board: whose memories and core it is built for.
        x, y: samples ``(N, ...)`` with labels ``(N,)`` to learn from. test, truth: to predict before and after.

    Raises:
        ExportError: the samples do not fit into the board's Flash.
    """
    macros = macros_of(folder.parent / "c")
    x, test = (as_read(part, macros) for part in (x, test))
    size = x.element_size() * (x.numel() + test.numel())
    if size > board.flash[1] // 2:
        raise ExportError(
            f"{len(x) + len(test)} samples as constants take {size:,} bytes",
            f"{board.name} has {board.flash[1]:,} bytes of Flash",
            "take fewer to test with (--test-samples), or a board with more",
        )
    shutil.rmtree(folder / "build", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    defines = " ".join(board.defines)
    filled = {
        "@CORE@": " ".join(board.flags),
        "@BOARD@": board.name,
        "@DEFINES@": defines,
        "@CMAKE_DEFINES@": defines.replace("-D", "") or "EXAMPLE",
    }
    for template in sorted(_TEMPLATES.iterdir()):
        text = template.read_text()
        for name, value in filled.items():
            text = text.replace(name, value)
        (folder / template.name).write_text(text)
    write_link_script(folder, board)
    for file in (STARTUP, STARTUP.with_name("board.h")):
        shutil.copyfile(file, folder / file.name)
    (folder / "samples.h").write_text(_samples(x, y, test, truth))


def _samples(x: Tensor, y: Tensor, test: Tensor, truth: Tensor) -> str:
    parts = ["/* What the example learns from, and what it is tried on. */", "#include <stdint.h>", ""]
    for name, inputs, labels in (("sample", x, y), ("test", test, truth)):
        rows = inputs.detach().numpy().reshape(len(inputs), -1)
        kind = "int8_t" if rows.dtype == np.int8 else "float"
        parts += [
            f"#define {name.upper()}S {len(rows)}",
            f"static const {kind} {name}_inputs[{len(rows)}][{rows.shape[1]}] = {{",
            *("    {" + ", ".join(number(v, kind) for v in row.tolist()) + "}," for row in rows),
            "};",
            f"static const int32_t {name}_labels[{len(rows)}] = {{{', '.join(map(str, np.asarray(labels).tolist()))}}};",
            "",
        ]
    return "\n".join(parts)
