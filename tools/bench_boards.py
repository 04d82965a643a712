"""Int8 inference of the MLCommons-Tiny networks on the emulated boards: instructions, Flash, RAM, per layer on request, beside CMSIS-NN on request.

    python tools/bench_boards.py --layers --json boards.json
    python tools/bench_boards.py --boards mps3-an547 --cmsis-nn ~/CMSIS-NN

Weights are the official ones where LIGHTNING_FWD_DATA has them, else drawn; inputs are drawn in the network's range (instruction counts do not
depend on either). CMSIS-NN runs on the same constants in the same memory plan, compiled by the same flags, and its output is compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from lightning_fwd_export.quiet import quiet

from lightning_fwd.models import MODELS

with quiet():  # ExecuTorch and what it imports speak while they load
    from lightning_fwd_export.boards import BOARDS, run_on_board
    from lightning_fwd_export.boards.board import Board
    from lightning_fwd_export.boards.build import SEMIHOSTED, compile_model, emulate, link
    from lightning_fwd_export.errors import ExportError
    from lightning_fwd_export.generate_c import pte_to_c
    from lightning_fwd_export.int8 import int8_inference
    from lightning_fwd_export.mixed import quantise_input
    from lightning_fwd_export.program import label, serialise
    from lightning_fwd_export.pte import Program

HERE = Path(__file__).parent / "benchmarks" / "boards"
# file of the official weights, and the range of inputs that the network takes
NETWORKS = {
    "resnet8": ("resnet8", 0, 255),
    "ds_cnn": ("ds_cnn_kws", -120, 100),
    "mobilenet_v1_025": ("mobilenet_v1_025_vww", 0, 1),
    "fc_autoencoder": ("autoencoder_ad", -40, 0),
    "streaming_wake_word": ("sww_streaming", -2, 2),
}
CMSIS_FOLDERS = "BasicMath Convolution FullyConnected NNSupport Pooling Transpose".split()


@dataclass
class Layer:
    """One kernel call: instructions by our kernel, and by CMSIS-NN where it was asked for."""

    layer: str
    kernel: str
    instructions: int
    cmsis_nn: int | None = None


@dataclass
class Result:
    network: str
    board: str
    instructions: int
    flash: int
    ram: int
    stack: int
    cmsis_nn: int | None = None
    same_bits: bool | None = None
    layers: list[Layer] = field(default_factory=list)


def exported(network: str, folder: Path) -> tuple[Program, torch.Tensor]:
    """The network's int8 program, written as C into ``folder``, and one quantised input."""
    weights, low, high = NETWORKS[network]
    torch.manual_seed(0)
    file = Path(os.environ.get("LIGHTNING_FWD_DATA", "")) / "mlperf_tiny" / f"{weights}.npz"
    net = MODELS[network](weights=str(file) if file.is_file() else None).eval()
    generator = torch.Generator().manual_seed(1)
    samples = [low + (high - low) * torch.rand(1, *net.input_shape, generator=generator) for _ in range(8)]
    with quiet():
        edge = int8_inference(net, samples, samples[0])
        label(edge.exported_program("forward").graph)
        program = pte_to_c(serialise(edge, edge._config_methods, [])[0], folder)
    return program, quantise_input(samples[0], program.numbers, "forward")


def measure(network: str, program: Program, code: Path, x: torch.Tensor, board: Board, cmsis_nn: list[str] | None) -> Result:
    report = run_on_board(code, board, program, [("forward", (x,))])
    calls, stack = program.methods["forward"].calls, report.stack["forward"]
    ticks, output = by_layer(code, x, board)
    names = [(c.layer, c.operator.partition("::")[2].removesuffix(".out")) for c in calls]
    result = Result(network, board.name, report.instructions[0], report.flash, report.ram, stack)
    result.layers = [Layer(*name, board.instructions(t)) for name, t in zip(names, ticks[1:], strict=True)]
    if not np.array_equal(output, report.outputs[0][0].ravel()):
        raise ExportError(f"{network} on {board.name}: two runs differ", "", "this is a defect worth reporting")
    if cmsis_nn is not None:
        theirs, other = by_layer(code, x, board, cmsis_nn)
        result.cmsis_nn, result.same_bits = board.instructions(theirs[0]), bool(np.array_equal(output, other))
        for layer, t in zip(result.layers, theirs[1:], strict=True):
            layer.cmsis_nn = board.instructions(t)
    return result


def by_layer(code: Path, x: torch.Tensor, board: Board, instead: Sequence[str] = ()) -> tuple[list[int], np.ndarray]:
    """Ticks of the whole run and of each call, and the output; objects of ``instead`` take the place of kernels of the same names."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        hooked = re.sub(r"(?m)^(    lfwd_\w+\(.*\);)( /\*)", r"\1 lfwd_called();\2", (code / "lfwd_model.c").read_text())
        (work / "lfwd_model.c").write_text("void lfwd_called(void);\n" + hooked)
        for name in ("lfwd_model.h", "lfwd_constants.h", "kernels"):
            (work / name).symlink_to(code / name)
        values = ", ".join(map(str, x.permute(0, 2, 3, 1).flatten().tolist() if x.dim() == 4 else x.flatten().tolist()))
        (work / "input.h").write_text(f"static const int8_t input[{x.numel()}] = {{{values}}};\n")
        replaced = {"conv2d_s8", "depthwise_s8", "linear_s8", "pool_s8", "elementwise_s8"} if instead else set()
        objects = [o for o in compile_model(work, work, board, ["-O2"]) if Path(o).stem not in replaced]
        emulate(work, link(work, work, board, HERE / "layers.c", [*objects, *instead], SEMIHOSTED), board, 600)
        total, calls, output = (work / "layers.txt").read_text().splitlines()
    return [int(total), *map(int, calls.split())], np.array(output.split(), np.int8)


def compile_cmsis_nn(source: Path, work: Path, board: Board) -> list[str]:
    """Objects of a CMSIS-NN checkout and of the file that gives its kernels our names.

    Raises:
        ExportError: the folder is no checkout, or does not compile.
    """
    files = [
        f
        for name in CMSIS_FOLDERS
        for f in sorted((source / "Source" / f"{name}Functions").glob("*.c"))
        if not f.stem.endswith(("f16", "f32"))
    ]
    if not files:
        raise ExportError(
            f"{source} is no checkout of CMSIS-NN", "it has no Source/ConvolutionFunctions", "git clone it and name its folder"
        )
    work.mkdir()
    flags = [*board.flags, "-mthumb", "-O2", "-std=gnu99", "-fno-strict-aliasing", "-ffunction-sections", "-fdata-sections", "-w"]
    includes = [f"-I{source / 'Include'}", f"-I{Path(sys.modules['lightning_fwd_export'].__file__).parent / 'csrc'}"]
    command = ["arm-none-eabi-gcc", *flags, *includes, "-c", *map(str, files), str(HERE / "cmsis_nn.c")]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise ExportError(f"{source} does not compile for {board.name}", done.stderr[-2000:], "take a released version of CMSIS-NN")
    return sorted(map(str, work.glob("*.o")))


def show(results: list[Result], layers: bool, console: Console) -> None:
    table = Table("network", "board", "instructions", "CMSIS-NN", "ratio", "same bits", "Flash, B", "RAM, B", "stack, B")
    for r in results:
        theirs = (f"{r.cmsis_nn:,}", f"{r.instructions / r.cmsis_nn:.2f}", str(r.same_bits)) if r.cmsis_nn else ("", "", "")
        table.add_row(r.network, r.board, f"{r.instructions:,}", *theirs, f"{r.flash:,}", f"{r.ram:,}", f"{r.stack:,}")
    console.print(table)
    for r in results if layers else []:
        table = Table("layer", "kernel", "instructions", "CMSIS-NN", title=f"{r.network}, {r.board}")
        for layer in r.layers:
            theirs = "" if layer.cmsis_nn is None else f"{layer.cmsis_nn:,}"
            table.add_row(layer.layer, layer.kernel, f"{layer.instructions:,}", theirs)
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--boards", nargs="+", choices=sorted(BOARDS), default=list(BOARDS))
    parser.add_argument("--layers", action="store_true", help="instructions of every layer too")
    parser.add_argument("--cmsis-nn", type=Path, metavar="DIR", help="a checkout of CMSIS-NN to compare with")
    parser.add_argument("--json", type=Path, help="write everything there")
    options, results = parser.parse_args(), []
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = {b: None for b in options.boards}
            if options.cmsis_nn:
                theirs = {b: compile_cmsis_nn(options.cmsis_nn.resolve(), Path(folder) / b, BOARDS[b]) for b in options.boards}
            for network in options.networks:
                program, x = exported(network, Path(folder) / network)
                results += [measure(network, program, Path(folder) / network, x, BOARDS[b], theirs[b]) for b in options.boards]
    except ExportError as error:
        console.print(f"error: {error}", highlight=False)
        return 2
    show(results, options.layers, console)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    return 0 if all(r.same_bits is not False for r in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
