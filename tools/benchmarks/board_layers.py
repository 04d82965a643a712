"""Where a method's instructions go, call by call, on an emulated board; and CMSIS-NN's objects in the place of our kernels."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fwd_export.boards.board import Board
from lightning_fwd_export.boards.build import SEMIHOSTED, compile_model, emulate, link
from lightning_fwd_export.boards.run import to_memory
from lightning_fwd_export.errors import ExportError
from lightning_fwd_export.generate_c import CSRC
from lightning_fwd_export.pte import Method

HERE = Path(__file__).parent / "boards"
INT8_KERNELS = {"conv2d_s8", "depthwise_s8", "linear_s8", "pool_s8", "elementwise_s8"}
_CMSIS_FOLDERS = "BasicMath Convolution FullyConnected NNSupport Pooling Transpose".split()
_CALL = re.compile(r"(?m)^(    \S.*)( /\* \w+::(\S+) \*/)$")
_ORIGIN = re.compile(r"^    /\* ---- (.*) \*/$")


@dataclass
class Layer:
    """One kernel call: instructions by our kernel, and by CMSIS-NN where it was asked for."""

    layer: str
    kernel: str
    instructions: int
    cmsis_nn: int | None = None


def by_layer(code: Path, method: Method, inputs: Sequence, board: Board, instead: Sequence[str] = ()) -> tuple[int, list[Layer], bytes]:
    """Instructions of the method's second run, of each of its calls, and all its outputs.

    Args:
        code: generated C. inputs: of the method. instead: objects that take the place of the int8 kernels.
    """
    text = (code / "lfwd_model.c").read_text()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "lfwd_model.c").write_text("void lfwd_called(void);\n" + _CALL.sub(r"\1 lfwd_called();\2", text))
        for name in ("lfwd_model.h", "lfwd_constants.h", "kernels"):
            (work / name).symlink_to(code / name)
        (work / "method.h").write_text(_method(method, inputs))
        objects = [o for o in compile_model(work, work, board, ["-O2"]) if not (instead and Path(o).stem in INT8_KERNELS)]
        emulate(work, link(work, work, board, HERE / "layers.c", [*objects, *instead], SEMIHOSTED), board, 600)
        total, calls = (work / "layers.txt").read_text().splitlines()
        outputs = (work / "outputs.bin").read_bytes()
    counts = [board.instructions(int(t)) for t in calls.split()]
    layers = [Layer(*name, n) for name, n in zip(_calls(text, method.name), counts, strict=True)]
    return board.instructions(int(total)), layers, outputs


def _calls(text: str, method: str) -> list[tuple[str, str]]:
    """Layer (and phase, of a training step) and operator of every call of a function of the generated C."""
    found, origin = [], ""
    body = text[text.index(f"void lfwd_{method}(") :]
    for line in body[: body.index("\n}\n")].splitlines():
        if begins := _ORIGIN.match(line):
            origin = begins[1].removesuffix(" forward")
        elif call := _CALL.match(line):
            found.append((origin, call[3].partition(".")[0]))
    return found


def _method(method: Method, inputs: Sequence) -> str:
    """The header that ``layers.c`` reads: inputs, a run and where its outputs are."""
    lines, names = [], []
    for k, (t, value) in enumerate(zip(method.inputs, inputs, strict=True)):
        data = ", ".join(map(str, to_memory(t, np.asarray(value))))
        lines.append(f"static const uint8_t in{k}[] __attribute__((aligned(8))) = {{{data}}};")
        names.append(f"(const void *)in{k}")
    for k, t in enumerate(method.outputs):
        lines.append(f"static {t.ctype} out{k}[{max(t.count, 1)}];")
        names.append(f"out{k}")
    writes = " ".join(f"fwrite(out{k}, sizeof out{k}, 1, file);" for k in range(len(method.outputs)))
    run = f"static void run(void)\n{{\n    lfwd_{method.name}({', '.join(names)});\n}}"
    return "\n".join([*lines, run, f"static void put(FILE *file)\n{{\n    {writes}\n}}", ""])


def compile_cmsis_nn(source: Path, work: Path, board: Board) -> list[str]:
    """Objects of a CMSIS-NN checkout and of the file that gives its kernels our names.

    Raises:
        ExportError: the folder is no checkout, or does not compile.
    """
    files = [
        f
        for name in _CMSIS_FOLDERS
        for f in sorted((source / "Source" / f"{name}Functions").glob("*.c"))
        if not f.stem.endswith(("f16", "f32"))
    ]
    if not files:
        raise ExportError(
            f"{source} is no checkout of CMSIS-NN", "it has no Source/ConvolutionFunctions", "git clone it and name its folder"
        )
    work.mkdir()
    flags = [*board.flags, "-mthumb", "-O2", "-std=gnu99", "-fno-strict-aliasing", "-ffunction-sections", "-fdata-sections", "-w"]
    command = ["arm-none-eabi-gcc", *flags, f"-I{source / 'Include'}", f"-I{CSRC}", "-c", *map(str, files), str(HERE / "cmsis_nn.c")]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise ExportError(f"{source} does not compile for {board.name}", done.stderr[-2000:], "take a released version of CMSIS-NN")
    return sorted(map(str, work.glob("*.o")))
