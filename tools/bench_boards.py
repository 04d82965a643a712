"""Int8 inference of the MLCommons-Tiny networks on the emulated boards: instructions, Flash, RAM, per layer on request, beside CMSIS-NN on
request;
and training steps beside it.

    python tools/bench_boards.py --layers --json boards.json
    python tools/bench_boards.py --boards mps3-an547 --cmsis-nn ~/CMSIS-NN
    python tools/bench_boards.py --steps --boards mps2-an386

Weights are the official ones where LIGHTNING_FWD_DATA has them, else drawn; inputs are drawn in the network's range (instruction counts do
not depend on either). CMSIS-NN runs on the same constants in the same memory plan, compiled by the same flags, and its output is compared
bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from lightning_fwd_export.quiet import quiet

from lightning_fwd.models import MODELS

with quiet():  # ExecuTorch and what it imports speak while they load
    from benchmarks.board_layers import Layer, by_layer, compile_cmsis_nn
    from benchmarks.board_steps import CASES, Step, measure_steps
    from lightning_fwd_export.boards import BOARDS, run_on_board
    from lightning_fwd_export.boards.board import Board
    from lightning_fwd_export.errors import ExportError
    from lightning_fwd_export.generate_c import pte_to_c
    from lightning_fwd_export.int8 import int8_inference
    from lightning_fwd_export.mixed import quantise_input
    from lightning_fwd_export.program import label, serialise
    from lightning_fwd_export.pte import Program

# file of the official weights, and the range of inputs that the network takes
NETWORKS = {
    "resnet8": ("resnet8", 0, 255),
    "ds_cnn": ("ds_cnn_kws", -120, 100),
    "mobilenet_v1_025": ("mobilenet_v1_025_vww", 0, 1),
    "fc_autoencoder": ("autoencoder_ad", -40, 0),
    "streaming_wake_word": ("sww_streaming", -2, 2),
}
WITH_FPU = [name for name, board in BOARDS.items() if board.has_fpu]


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


def network_and_samples(network: str) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """A network with its official weights where there are some, and inputs in its range."""
    weights, low, high = NETWORKS[network]
    torch.manual_seed(0)
    file = Path(os.environ.get("LIGHTNING_FWD_DATA", "")) / "mlperf_tiny" / f"{weights}.npz"
    net = MODELS[network](weights=str(file) if file.is_file() else None).eval()
    generator = torch.Generator().manual_seed(1)
    return net, [low + (high - low) * torch.rand(1, *net.input_shape, generator=generator) for _ in range(8)]


def exported(network: str, folder: Path) -> tuple[Program, torch.Tensor]:
    """The network's int8 program, written as C into ``folder``, and one quantised input."""
    net, samples = network_and_samples(network)
    with quiet():
        edge = int8_inference(net, samples, samples[0])
        label(edge.exported_program("forward").graph)
        program = pte_to_c(serialise(edge, edge._config_methods, [])[0], folder)
    return program, quantise_input(samples[0], program.numbers, "forward")


def measure(network: str, program: Program, code: Path, x: torch.Tensor, board: Board, cmsis_nn: list[str] | None) -> Result:
    forward = program.methods["forward"]
    report = run_on_board(code, board, program, [("forward", (x,))])
    result = Result(network, board.name, report.instructions[0], report.flash, report.ram, report.stack["forward"])
    _, result.layers, output = by_layer(code, forward, (x,), board)
    if cmsis_nn is not None:
        result.cmsis_nn, theirs, other = by_layer(code, forward, (x,), board, cmsis_nn)
        result.same_bits = output == other
        for layer, their in zip(result.layers, theirs, strict=True):
            layer.cmsis_nn = their.instructions
    return result


def steps(networks: list[str], inferences: list[Result], folder: Path) -> list[Step]:
    """Every training step of the chosen networks, on every board that has an FPU."""
    found = []
    for k, case in enumerate(case for case in CASES if case.network in networks):
        by_board = {BOARDS[r.board]: r.instructions for r in inferences if r.network == case.network and BOARDS[r.board].has_fpu}
        found += measure_steps(case, *network_and_samples(case.network), by_board, folder / f"step{k}")
    return found


def show(results: list[Result], found: list[Step], layers: bool, console: Console) -> None:
    if results:
        table = Table("network", "board", "instructions", "CMSIS-NN", "ratio", "same bits", "Flash, B", "RAM, B", "stack, B")
        for r in results:
            theirs = (f"{r.cmsis_nn:,}", f"{r.instructions / r.cmsis_nn:.2f}", str(r.same_bits)) if r.cmsis_nn else ("", "", "")
            table.add_row(r.network, r.board, f"{r.instructions:,}", *theirs, f"{r.flash:,}", f"{r.ram:,}", f"{r.stack:,}")
        console.print(table)
    if found:
        table = Table("training step of", "what learns", "board", "instructions", "inference", "ratio", "RAM, B")
        for s in found:
            counts = ("too large: " + s.too_large, "", "") if s.too_large else (f"{s.instructions:,}", f"{s.inference:,}", f"{s.ratio:.2f}")
            table.add_row(s.network, s.what, s.board, *counts, f"{s.ram:,}")
        console.print(table)
    for r in [*results, *(s for s in found if not s.too_large)] if layers else []:
        what = f", {r.what}" if isinstance(r, Step) else ""
        table = Table("layer", "kernel", "instructions", "CMSIS-NN", title=f"{r.network}, {r.board}{what}")
        for layer in r.layers:
            theirs = "" if layer.cmsis_nn is None else f"{layer.cmsis_nn:,}"
            table.add_row(layer.layer, layer.kernel, f"{layer.instructions:,}", theirs)
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--boards", nargs="+", choices=sorted(BOARDS), default=WITH_FPU)
    parser.add_argument("--steps", action="store_true", help="training steps too, of the networks that have one")
    parser.add_argument("--layers", action="store_true", help="instructions of every layer too")
    parser.add_argument("--cmsis-nn", type=Path, metavar="DIR", help="a checkout of CMSIS-NN to compare with")
    parser.add_argument("--json", type=Path, help="write everything there")
    options, results = parser.parse_args(), []
    console = Console(width=None if sys.stdout.isatty() else 160)
    found: list[Step] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = {b: None for b in options.boards}
            if options.cmsis_nn:
                theirs = {b: compile_cmsis_nn(options.cmsis_nn.resolve(), Path(folder) / b, BOARDS[b]) for b in options.boards}
            for network in options.networks:
                program, x = exported(network, Path(folder) / network)
                results += [measure(network, program, Path(folder) / network, x, BOARDS[b], theirs[b]) for b in options.boards]
            show(results, found, options.layers, console)
            if options.steps:
                found = steps(options.networks, results, Path(folder))
                show([], found, options.layers, console)
    except ExportError as error:
        console.print(f"error: {error}", highlight=False)
        return 2
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in [*results, *found]], indent=2) + "\n")
    return 0 if all(r.same_bits is not False for r in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
