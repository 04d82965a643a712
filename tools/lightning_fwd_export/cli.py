"""``lightning-fwd export``: program, C, board report, adaptation on the board. ``lightning-fwd npu``: what Vela says of a forward pass."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .boards import BOARDS
from .errors import ExportError
from .generate_c import pte_to_c


def export(arguments: list[str] | None = None) -> int:
    """Run the command; errors of the user's raise ExportError, which ``lightning-fwd`` prints."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console()
    if options.pte:
        program = pte_to_c(Path(options.pte), options.out, options.trust_unsealed)
        console.print(f"wrote {options.out}: {', '.join(program.methods)}", highlight=False)
        return 0
    if options.config:
        from .checkpoint import read_recipe

        stated = {action.dest for action in parser._actions if getattr(options, action.dest, None) != action.default}
        for key, value in read_recipe(options.config).items():  # what the command line states wins
            if key not in stated:
                setattr(options, key, value)
    if not options.model:
        raise ExportError(
            "nothing to export", "neither --model, --config nor --pte is given", "e.g. --model resnet8 --method sparse_update"
        )
    _export_model(options, console)
    return 0


def npu(arguments: list[str] | None = None) -> int:
    """Compile a network for an Ethos-U and print Vela's estimate beside the built-in profile's; optionally write a profile of this network."""
    from lightning_fwd.cli import _model_options, build_model
    from lightning_fwd.cost import load_device

    from .npu import ACCELERATORS, npu_forward, write_profile

    parser = argparse.ArgumentParser("lightning-fwd npu", description=npu.__doc__)
    _model_options(parser, method=False)
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="ethos-u55-128")
    parser.add_argument("--profile", type=Path, help="write a device profile there, for lightning-fwd cost --width int8 --device FILE.yaml")
    options, console = parser.parse_args(arguments), Console()
    if options.profile and options.profile.suffix not in (".yaml", ".yml"):
        raise ExportError(f"--profile {options.profile}", "a profile is a YAML file", "give it a name that ends in .yaml")
    forward = npu_forward(*build_model(options), options.accelerator)
    profile = load_device(ACCELERATORS[options.accelerator]).cycles({"forward": forward.macs}, "int8")
    table = Table("", "", show_header=False, title=f"one int8 forward pass of {forward.network}, {options.accelerator}")
    table.columns[1].justify = "right"
    table.add_row("cycles (Vela, an estimate)", f"{forward.cycles:,}")
    table.add_row(f"ms at {forward.clock_hz / 1e6:g} MHz", f"{1e3 * forward.cycles / forward.clock_hz:.3f}")
    table.add_row("MAC", f"{forward.macs:,}")
    table.add_row("cycles per MAC", f"{forward.cycles_per_mac:.4f}")
    table.add_row(f"cycles by the profile {ACCELERATORS[options.accelerator]}", f"{profile:,.0f}")
    table.add_row("parts on the NPU", f"{forward.parts}")
    table.add_row("left on the CPU", ", ".join(f"{count} {name}" for name, count in forward.on_cpu.items()) or "nothing")
    console.print(table)
    if options.profile:
        write_profile(forward, options.profile)
        console.print(f"wrote {options.profile}", highlight=False)
    return 0


def _parser() -> argparse.ArgumentParser:
    from lightning_fwd.cli import _model_options, _positive

    parser = argparse.ArgumentParser("lightning-fwd export", description="Ship the training step to a microcontroller.")
    _model_options(parser)
    for action in parser._actions:  # --pte needs no model
        action.required = False
    parser.add_argument("-c", "--config", type=Path, help="recipe of lightning-fwd fit: model, rule, rate and data are taken from it")
    parser.add_argument("--weights", type=Path, help="trained weights: checkpoint, state_dict, .safetensors, or Keras .npz or .h5")
    parser.add_argument("--out", required=True, type=Path, help="folder for step.pte, c/ and report.json")
    parser.add_argument("--batch", type=_positive, default=1, help="batch size of the program")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--steps", type=_positive, default=50, help="training steps checked on the host, and run on the board")
    parser.add_argument("--board", choices=sorted(BOARDS), help="emulated board, with --run")
    parser.add_argument("--run", action="store_true", help="train on the board's emulator")
    parser.add_argument("--int8", action="store_true", help="quantise what lies before the first trained layer (needs --dataset)")
    parser.add_argument("--dataset", help="real samples: a name or path as lightning_fwd.data knows it")
    parser.add_argument("--normalize", choices=("standard", "byte"), help="how the samples are scaled")
    parser.add_argument("--drift", help="adapt on the board to this drift, e.g. noise=0.08; prints accuracy before and after")
    parser.add_argument("--test-samples", type=_positive, default=100, help="of the drifted data, with --drift")
    parser.add_argument("--pte", help="generate C from this program instead of exporting a model")
    parser.add_argument("--trust-unsealed", action="store_true", help="accept a .pte that another tool wrote")
    return parser


def _export_model(options: argparse.Namespace, console: Console) -> None:
    from lightning_fwd.cli import build_method, build_model
    from lightning_fwd.methods import rewrite
    from lightning_fwd.models.weights import KERAS, load_state, load_weights, read_checkpoint

    from .checkpoint import load_inserted, sample_shape
    from .export import export_program

    described = getattr(options, "data", {})
    if options.dataset and options.dataset != (described.get("init_args") or {}).get("dataset"):  # --dataset wins
        described = {"init_args": {"dataset": options.dataset}}
    net, example = build_model(options, options.batch, lambda: sample_shape(described))
    checkpoint = {}
    if options.weights and options.weights.suffix in KERAS:
        load_weights(net, options.weights)
    elif options.weights:
        load_state(net, checkpoint := read_checkpoint(options.weights))
    batches = calibration = data = None
    if options.dataset:
        from lightning_fwd.data import DriftDataModule

        data = DriftDataModule(
            options.dataset,
            drift=options.drift,
            batch_size=options.batch,
            normalize=options.normalize,
            test_samples=options.test_samples,
            flatten=example.dim() == 2,
        )
        batches = _take(data.changed(view="target") if options.drift else data, options.steps, options.batch)
        calibration = [x for x, _ in _take(data, 64, options.batch)]
        example = batches[0][0]
    elif options.drift or options.int8:
        raise ExportError("--drift and --int8 need real samples", "", "give --dataset, e.g. --dataset cifar10")
    import torch

    target = batches[0][1] if batches else torch.zeros(options.batch, dtype=torch.int64)
    rule = build_method(options) if isinstance(options.method, str) else options.method
    model = rewrite(net.eval(), rule, example)
    load_inserted(model, checkpoint)
    with _progress() as progress:
        program, report = export_program(
            model,
            (example, target),
            options.out,
            board=options.board,
            run=options.run,
            calibration=calibration,
            int8=options.int8,
            lr=options.lr,
            momentum=options.momentum,
            batches=batches,
            steps=options.steps,
            progress=progress,
        )
    _print(report, console)
    if options.drift and not options.run:
        console.print("accuracy before and after is measured on a board: add --board NAME --run", highlight=False)
    elif options.drift:
        from .adapt import adapt_on_board

        test = [b for b in data.changed(view="target").test_dataloader() if len(b[1]) == options.batch]
        with _progress() as progress:
            progress(f"adapting on {options.board}")
            result = adapt_on_board(program, options.board, batches, [tuple(b) for b in test], options.out / "c")
        (options.out / "adaptation.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
        console.print(
            f"{options.board}, {data.changed(view='target').title}: accuracy {100 * result.before:.1f} % -> "
            f"{100 * result.after:.1f} % after {result.steps} steps",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows the phase that runs: as one line that changes in a terminal, else line by line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda phase: console.print(phase, highlight=False)
        return
    with console.status("reading the model") as status:
        yield status.update


def _take(data, count: int, batch: int) -> list[tuple]:
    batches = []
    while len(batches) < count:
        before = len(batches)
        for x, y in data.train_dataloader():
            if len(y) == batch and len(batches) < count:
                batches.append((x, y))
        if len(batches) == before:
            raise ExportError(f"the data set has fewer than {batch} samples", "", "lower --batch")
    return batches


def _print(report, console: Console) -> None:
    table = Table("", "measured", "ledger", title="training step")
    for column in table.columns[1:]:
        column.justify = "right"
    board, ledger = report.board, report.ledger
    ram, constants = board.get("ram_bytes", report.activations + report.state), ledger["flash_bytes"]
    table.add_row("RAM, bytes", f"{ram:,}", f"{ledger['exported_ram_bytes']:,}")
    table.add_row("  in fused and reordered loops", "", f"{ledger['peak_ram_bytes']:,}")
    if board:
        code = board["flash_bytes"] - board["flash_constants_bytes"]
        table.add_row("Flash, constants, bytes", f"{board['flash_constants_bytes']:,}", f"{constants:,}")
        table.add_row("  code as linked", f"{code:,}", "")
        table.add_row("  both", f"{board['flash_bytes']:,}", f"{constants + code:,}")
        table.add_row("stack, bytes", f"{board['stack_bytes']:,}", "")
        table.add_row("instructions per step", f"{board['instructions_per_training_step']:,}", "")
        table.add_row("instructions per inference", f"{board['instructions_per_inference']:,}", "")
        table.add_row("weights, difference to host", f"{board['weight_difference_to_host']:.1e}", "")
    table.add_row("MAC per step", "", f"{ledger['macs_per_step']:,}")
    console.print(table)
    followed = "PyTorch"
    if report.same_predictions is not None:
        followed = f"PyTorch's own int8 step, {100 * report.same_predictions:.1f} % of predictions as in float"
    console.print(
        f"{report.program}: {report.steps} steps within {report.weight_difference:.1e} of {followed}; C in {report.code}",
        highlight=False,
        soft_wrap=True,
    )
