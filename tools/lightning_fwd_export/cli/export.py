"""Ship the training step, or inference alone: ExecuTorch program, C, emulated board."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_fwd.cli.options import add_model_options, build_method, build_model, positive

from ..errors import ExportError
from ..quiet import quiet
from .export_adaptation import export_adaptation, is_adaptation

LOSSES = ("cross_entropy", "mse")


def add_options(parser: argparse.ArgumentParser) -> None:
    with quiet():
        from ..boards import BOARDS

    add_model_options(parser, required=False)  # --pte and --config need none
    parser.add_argument(
        "-c", "--config", type=Path, help="recipe of lightning-fwd fit (model, rule, rate, data), or of adapt (all stages as one library)"
    )
    parser.add_argument("--weights", type=Path, help="trained weights: checkpoint, state_dict, .safetensors, or Keras .npz or .h5")
    parser.add_argument("--out", required=True, type=Path, help="folder for step.pte (or inference.pte), c/ and report.json")
    parser.add_argument("--inference", action="store_true", help="ship the network to predict and not to learn: no rule, no training step")
    parser.add_argument("--batch", type=positive, default=1, help="batch size of the program")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--loss", choices=LOSSES, help="default: mse to its own input for a network without classes, else cross_entropy")
    parser.add_argument(
        "--steps", type=positive, default=50, help="training steps (or predictions) checked on the host, and run on the board"
    )
    parser.add_argument("--board", choices=sorted(BOARDS), help="emulated board, with --run")
    parser.add_argument("--run", action="store_true", help="train (or predict) on the board's emulator")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantise what lies before the first trained layer, or all of it with --inference (needs --dataset)",
    )
    parser.add_argument("--dataset", help="real samples: a name or path as lightning_fwd.data knows it")
    parser.add_argument("--normalize", choices=("standard", "byte"), help="how the samples are scaled")
    parser.add_argument("--drift", help="adapt on the board to this drift, e.g. noise=0.08; prints accuracy before and after")
    parser.add_argument("--test-samples", type=positive, default=100, help="of the drifted data, with --drift")
    parser.add_argument("--npu", metavar="ETHOS-U55-...", help="write what learns on this NPU, which only infers (needs --dataset)")
    parser.add_argument(
        "--train",
        choices=("head", "norms", "zeroth-order", "forward-forward"),
        help="with --npu, what learns from labels: the head (default), or the batch norms too: by a way back, or by inferences alone",
    )
    parser.add_argument("--prefix", default="lfwd_", help="of every name in the C, e.g. kws_: two programs then fit into one firmware")
    parser.add_argument("--pte", help="generate C from this program instead of exporting a model")
    parser.add_argument("--trust-unsealed", action="store_true", help="accept a .pte that another tool wrote")
    parser.set_defaults(defaults={action.dest: action.default for action in parser._actions})


def run(options: argparse.Namespace) -> int:
    """Ship the training step to a microcontroller: ExecuTorch program, C, emulated board.

    Raises:
        ExportError: what is asked for cannot be exported; nothing is written then.
    """
    console = Console()
    stated = {key for key, default in options.defaults.items() if getattr(options, key, default) != default}
    _refuse_unread(options, stated)
    if options.pte:
        from ..generate_c import pte_to_c

        program = pte_to_c(Path(options.pte), options.out, options.trust_unsealed, options.prefix)
        console.print(f"wrote {options.out}: {', '.join(program.methods)}", highlight=False)
        return 0
    if options.config and is_adaptation(options.config):
        with _progress() as progress:
            export_adaptation(options, console, progress)
        return 0
    if options.config:
        from ..checkpoint import read_recipe

        for key, value in read_recipe(options.config).items():  # what the command line states wins
            if key not in stated:
                setattr(options, key, value)
    if not options.model:
        raise ExportError(
            "nothing to export", "neither --model, --config nor --pte is given", "e.g. --model resnet8 --method sparse_update"
        )
    if options.npu:
        from .export_npu import export_npu

        export_npu(options, console)
        return 0
    _export_model(options, console)
    return 0


_OF_A_STEP = {"method", "set", "lr", "momentum", "loss"}
_OF_C_ALONE = {"pte", "out", "prefix", "trust_unsealed"}


def _refuse_unread(options: argparse.Namespace, stated: set[str]) -> None:
    """Refuse what would change nothing."""
    cases = (
        ("--pte", options.pte, stated - _OF_C_ALONE, "the program is there already, and only its C is written"),
        ("--inference", options.inference, stated & _OF_A_STEP, "a device that only predicts takes no step"),
        ("no --drift", not options.drift and not options.config, stated & {"test_samples"}, "accuracy is measured on drifted data"),
        ("no --pte", not options.pte, stated & {"trust_unsealed"}, "nothing is read that could be unsealed"),
    )
    for what, holds, unread, why in cases:
        if holds and unread:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unread))
            raise ExportError(f"{names} with {what}", why, f"leave {names} out")


def _export_model(options: argparse.Namespace, console: Console) -> None:
    from lightning_fwd.methods import rewrite
    from lightning_fwd.models.weights import KERAS, load_state, load_weights, read_checkpoint

    from ..checkpoint import load_inserted, sample_shape

    with quiet():  # ExecuTorch and what it imports speak while they load
        from ..export_step import export_program
        from ..inference import export_inference

    if options.train:
        raise ExportError("--train without --npu", "what else trains is said by its rule", "e.g. --method sparse_update --set train=norms")
    if options.inference and options.drift:
        raise ExportError("--inference --drift", "a device that only predicts does not adapt", "leave --inference out, or --drift")
    described = getattr(options, "data", {})
    if options.dataset and options.dataset != (described.get("init_args") or {}).get("dataset"):  # --dataset wins
        described = {"init_args": {"dataset": options.dataset}}
    net, example = build_model(options, options.batch, lambda: sample_shape(described))
    checkpoint = {}
    if options.weights and options.weights.suffix in KERAS:
        load_weights(net, options.weights)
    elif options.weights:
        load_state(net, checkpoint := read_checkpoint(options.weights))
    sizes, batches, calibration, data = tuple(example.shape[1:]), None, None, None
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
        batches = _take(data.changed(view="target") if options.drift else data, options.steps, options.batch, sizes)
        calibration = [x for x, _ in _take(data, 64, options.batch, sizes)]
        example = batches[0][0]
    elif options.drift or options.int8:
        raise ExportError("--drift and --int8 need real samples", "", "give --dataset, e.g. --dataset cifar10")
    import torch

    form = data.input_form() if data is not None else None
    common = {
        "form": form,
        "prefix": options.prefix,
        "board": options.board,
        "run": options.run,
        "calibration": calibration if options.int8 else None,
        "int8": options.int8,
    }
    if options.inference:
        with _progress() as progress:
            inputs = [x for x, _ in batches] if batches else None
            more = {"inputs": inputs, "samples": options.steps, "progress": progress}
            _, report = export_inference(net, example, options.out, **common, **more)
        _print_inference(report, console)
        return
    target = batches[0][1] if batches else torch.zeros(options.batch, dtype=torch.int64)
    loss = torch.nn.functional.cross_entropy
    if (options.loss or ("mse" if getattr(net, "num_classes", 0) is None else "")) == "mse":
        loss, target = torch.nn.functional.mse_loss, example
        batches = [(x, x) for x, _ in batches] if batches else None
        if options.drift:
            raise ExportError("--drift with a network that reconstructs its input", "its accuracy is not defined", "leave --drift out")
    rule = build_method(options) if isinstance(options.method, str) else options.method
    model = rewrite(net.eval(), rule, example)
    load_inserted(model, checkpoint)
    with _progress() as progress:
        program, report = export_program(
            model,
            (example, target),
            options.out,
            **common,
            loss=loss,
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
        from ..adapt import adapt_on_board

        test = [b for b in data.changed(view="target").test_dataloader() if len(b[1]) == options.batch]
        with _progress() as progress, tempfile.TemporaryDirectory() as folder:
            progress(f"adapting on {options.board}")
            result = adapt_on_board(program, options.board, batches, [(_fitted(x, sizes), y) for x, y in test], folder)
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


def _fitted(x, sizes: tuple[int, ...]):
    """Samples as the network takes them where only dimensions of one entry differ: signals ``(C, T)`` for ``(C, T, 1)``."""
    got, wanted = ([n for n in shape if n != 1] for shape in (x.shape[1:], sizes))
    return x.reshape(len(x), *sizes) if got == wanted else x


def _take(data, count: int, batch: int, sizes: tuple[int, ...]) -> list[tuple]:
    batches: list[tuple] = []
    while len(batches) < count:
        before = len(batches)
        for x, y in data.train_dataloader():
            if len(y) == batch and len(batches) < count:
                batches.append((_fitted(x, sizes), y))
        if len(batches) == before:
            raise ExportError(f"the data set has fewer than {batch} samples", "", "lower --batch")
    return batches


def _print_inference(report, console: Console) -> None:
    table = Table("", "measured", "ledger", title="inference")
    for column in table.columns[1:]:
        column.justify = "right"
    board = report.board
    ledger = report.ledger
    table.add_row("RAM, bytes", f"{board['ram_bytes']:,}" if board else "", f"{ledger['shipped_ram_bytes']:,}")
    table.add_row("  ideal, in fused and reordered loops", "", f"{ledger['scheduled_ram_bytes']:,}")
    _print_flash(table, board, ledger)
    if board:
        table.add_row("stack, bytes", f"{board['stack_bytes']:,}", "")
        table.add_row("instructions", f"{board['instructions_per_inference']:,}", "")
        table.add_row("difference to host", f"{board['difference_to_host']:.1e}", "")
    table.add_row("MAC", "", f"{ledger['macs']:,}")
    console.print(table)
    followed = f"within {report.difference:.1e} of PyTorch"
    if report.relative_error is not None:
        followed = f"equal to PyTorch's own int8 run bit for bit, {100 * report.relative_error:.1f} % from float (root mean square)"
    if report.same_predictions is not None:
        followed += f", {100 * report.same_predictions:.1f} % of predictions as in float"
    console.print(f"{report.program}: {report.samples} predictions {followed}; C in {report.code}", highlight=False, soft_wrap=True)


def _print_flash(table: Table, board: dict, ledger: dict) -> None:
    """Rows of constants, code and both: as linked, where there is a board, and as predicted."""
    constants, flash = ledger["shipped_constants_bytes"], ledger["shipped_flash_bytes"]
    linked = (board["flash_constants_bytes"], board["flash_bytes"] - board["flash_constants_bytes"], board["flash_bytes"]) if board else ()
    measured = [f"{n:,}" for n in linked] or [""] * 3
    for name, got, predicted in zip(
        ("Flash, constants, bytes", "  code", "  both"), measured, (constants, flash - constants, flash), strict=True
    ):
        table.add_row(name, got, f"{predicted:,}")


def _print(report, console: Console) -> None:
    table = Table("", "measured", "ledger", title="training step")
    for column in table.columns[1:]:
        column.justify = "right"
    board, ledger = report.board, report.ledger
    table.add_row("RAM, bytes", f"{board['ram_bytes']:,}" if board else "", f"{ledger['shipped_ram_bytes']:,}")
    table.add_row("  ideal, in fused and reordered loops", "", f"{ledger['scheduled_ram_bytes']:,}")
    _print_flash(table, board, ledger)
    if board:
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
