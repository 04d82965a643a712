"""The exporter's front door: model in, checked program, C and board report out."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_fwd.cost import price
from lightning_fwd.data.inputs import InputForm
from lightning_fwd.errors import RewriteError
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.integer import IntegerRule
from lightning_fwd.models.weights import require_finite
from lightning_fwd.passes import count_dropout
from lightning_fwd.trace.step_graph import StepGraph, trace_inference, trace_step

from .boards import PACKAGES, BoardReport, missing_tools, run_on_board
from .boards import board as find_board
from .c_code.prepare import add_prepare
from .c_code.selftest import write_selftest
from .c_code.unit import LEARNING_RATE, MOMENTUM
from .c_code.writer import Written
from .check import Batch, Check, board_calls, check_program, example_batches, golden_calls
from .code_size import shipped_flash, shipped_ram
from .errors import ExportError, NoKernel
from .folder import clear_export, require_folder, write_report
from .foreign import as_export_errors
from .fuse_step import fuse_layers, fuse_step
from .generate_c import PREFIX, require_prefix, translate, write_sources
from .host.runtime import HostProgram
from .integer import export_integer
from .locate import source_line
from .program import StepProgram, build_program
from .quiet import quiet
from .report import ExportReport
from .unrolled import require_few_operations, require_few_steps
from .weights_table import own_names, write_weights_table


def export(
    model: RewrittenModel,
    example_batch: Batch,
    out_dir: str | Path,
    board: str | None = None,
    run: bool = False,
    calibration: Iterable[Tensor] | None = None,
    int8: bool = False,
    lr: float = 0.01,
    momentum: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batches: Iterable[Batch] | None = None,
    steps: int = 50,
    prefix: str = PREFIX,
    form: InputForm | None = None,
) -> ExportReport:
    """Export the training step of a rewritten model, together with inference, sharing one set of weights.

    Args:
        model: what ``lf.rewrite`` gave, trained or not.
        example_batch: input ``(B, ...)`` and target ``(B,)`` of the program's fixed shapes.
        out_dir: gets ``step.pte``, ``c/``, ``report.json``, and the weights table for the way back (``lf.load_device_weights``).
        board, run: with ``run``, train on this board's emulator; the C itself is the same for every board.
        calibration: input batches for int8. int8: quantise what lies before the first trained layer.
        lr, momentum: of the SGD inside the program.
        loss: ``(logits, target) -> scalar``.
        batches: real batches for the check and the board; without them the example with noise.
        steps: training steps of the check, and of the board run.
        prefix: of every name in the C, such as ``kws_``: two programs then fit into one firmware.
        form: how a sensor's values become inputs (``DriftDataModule.input_form()``): the C then has ``lfwd_prepare``.

    Raises:
        ExportError: an operator has no kernel, an update would be lost, or the program strays from PyTorch. Nothing is written then.
        StepError: the step cannot be traced.
        LightningFwdError: a weight is not finite.
    """
    arguments = (board, run, calibration, int8, lr, momentum, loss, batches, steps, prefix, form)
    return export_program(model, example_batch, out_dir, *arguments)[1]


@quiet()
@as_export_errors()
def export_program(
    model: RewrittenModel,
    example_batch: Batch,
    out_dir: str | Path,
    board: str | None = None,
    run: bool = False,
    calibration: Iterable[Tensor] | None = None,
    int8: bool = False,
    lr: float = 0.01,
    momentum: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    batches: Iterable[Batch] | None = None,
    steps: int = 50,
    prefix: str = PREFIX,
    form: InputForm | None = None,
    progress: Callable[[str], None] = lambda phase: None,
) -> tuple[StepProgram, ExportReport]:
    """As :func:`export`, with the program itself beside the report; ``progress`` is told each phase as it begins."""
    if not isinstance(model, RewrittenModel):
        raise ExportError(f"expected a rewritten model, got {type(model).__name__}: call lf.rewrite(net, method, example_input) first")
    if run and board is None:
        raise ExportError("run=True needs a board, for example board='mps2-an386'")
    if board is not None and not run:
        raise ExportError(
            f"board={board!r} without run=True",
            "the C is the same for every board, so the board alone changes nothing",
            "add run=True (--run) to train on its emulator, or leave the board out",
        )
    require_prefix(prefix)
    require_finite(model.state_dict())
    if not (math.isfinite(lr) and lr > 0 and 0 <= momentum < 1 and steps > 0):
        raise ExportError(
            f"lr={lr}, momentum={momentum}, steps={steps}",
            "the program holds SGD with these, and is checked over these steps",
            "use lr > 0, 0 <= momentum < 1, steps >= 1",
        )
    try:
        model = count_dropout(model, int8)
    except RewriteError as error:
        raise ExportError(error.what, error.why, error.mend) from error
    _require_batch(model, example_batch)
    require_folder(Path(out_dir))
    target_board = find_board(board) if board else None
    if missing := target_board and run and missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    if omitted := model.method.beyond_the_step(model):
        rule = type(model.method).__name__
        raise ExportError(
            f"{rule}: the exported step would be without {omitted.partition('; ')[0]}",
            "it is decided on the host between steps, and a device that repeats one step would silently never do it",
            omitted.partition("; ")[2],
        )
    source = list(batches) if batches is not None else list(example_batches(example_batch, model.num_classes, steps))
    _require_alike(model, example_batch, source)
    if isinstance(model.method, IntegerRule):
        return export_integer(
            model, example_batch, Path(out_dir), target_board if run else None, source[:steps], lr, momentum, prefix, form, progress
        )
    require_few_steps(model.original, example_batch[0])
    try:
        program, train_step = build(model, example_batch, loss, lr, momentum, calibration if int8 else None, int8, progress)
        checked, written = translate(program.data, "step.pte")  # before the check: it names what has no kernel, with its layer
        uses_target = "target" in train_step.inputs
        progress(f"holding {min(steps, len(source))} steps against PyTorch")
        if int8:
            from .mixed import check_mixed

            check = check_mixed(program, model, source[:steps], uses_target)
        else:
            check = check_program(program, model, source[:steps], uses_target, lr, momentum, loss)
    except NoKernel as error:
        raise error.at(source_line(model.original, error.layer, model.opaque), int8) from error
    out = Path(out_dir)
    code = out / "c"
    written.files["lfwd_selftest.c"] = write_selftest(HostProgram(program.data).run, golden_calls(check))
    add_prepare(written.files, form, checked)
    activations, state = program.arenas["train_step"]
    progress("pricing the step")
    report = ExportReport(
        str(out / "step.pte"),
        str(code),
        program.weights,
        check.steps,
        check.weights,
        activations,
        state,
        check.same_predictions,
        ram_bytes=shipped_ram(written),
        flash_bytes=shipped_flash(written),
        ledger=_ledger(model, example_batch, loss, momentum, int8, written, target_board.cpu if target_board else "Cortex-M4"),
    )
    if target_board is not None and run:
        progress(f"training on {target_board.name}")
        with tempfile.TemporaryDirectory() as folder:  # without the prefix
            write_sources(written.files, folder)
            measured = run_on_board(folder, target_board, checked, board_calls(check))
        report.board = _board_figures(measured, program, check)
    clear_export(out)
    write_sources(written.files, code, prefix)
    (out / "step.pte").write_bytes(program.data)
    write_weights_table(out, model, program, checked, written)
    write_report(report, out)
    return program, report


def _require_batch(model: RewrittenModel, batch: Batch) -> None:
    x, target = batch
    if x.shape[1:] != model.example_input.shape[1:] or target.shape[:1] != x.shape[:1]:
        raise ExportError(
            f"example batch of shapes {tuple(x.shape)} and {tuple(target.shape)}",
            f"the model was rewritten for inputs (B, {', '.join(map(str, model.example_input.shape[1:]))}) with one label each",
            "give an (input, target) batch of the batch size that the device shall take",
        )


def _require_alike(model: RewrittenModel, example: Batch, batches: list[Batch]) -> None:
    if not batches:
        raise ExportError("no batches", "the program is held against PyTorch on them", "leave batches out: the example with noise serves")
    for k, (x, target) in enumerate(batches):
        if (x.shape, target.shape) != (example[0].shape, example[1].shape):
            raise ExportError(
                f"batch {k} has shapes {tuple(x.shape)} and {tuple(target.shape)}",
                f"the program is built for {tuple(example[0].shape)} and {tuple(example[1].shape)}",
                "leave out the last, smaller batch",
            )
        if not target.is_floating_point() and (int(target.min()) < 0 or int(target.max()) >= model.num_classes):
            raise ExportError(
                f"batch {k} has labels from {int(target.min())} to {int(target.max())}",
                f"the model has {model.num_classes} classes",
                "give data of the model's classes, or a model of the data's",
            )


def build(
    model: RewrittenModel,
    example_batch: Batch,
    loss,
    lr: float,
    momentum: float,
    calibration,
    int8: bool,
    progress: Callable[[str], None] = lambda phase: None,
):
    """The sealed program, and the traced training step it came from."""
    progress("tracing the step")
    x, target = example_batch
    example_batch = x, target.clone() if target is x else target  # one tensor twice would be traced as one input
    train_step = trace_step(model, example_batch, loss=loss, optimizer="sgd", lr=lr, momentum=momentum)
    forward = trace_inference(model, example_batch[0])
    require_few_operations(train_step)
    values = state_values(model, train_step, forward)
    progress(
        "quantising what lies before the first trained layer" if int8 else f"building a program of {len(train_step.graph.nodes)} operations"
    )
    numbers = {LEARNING_RATE: float(lr), MOMENTUM: float(momentum)} if train_step.trained else {}
    fuse_step(train_step, lr, momentum)
    fuse_layers(forward.module)
    if int8:
        from .mixed import build_mixed

        return build_mixed(model, train_step, forward, values, example_batch, calibration, numbers, own_names(model)), train_step
    return build_program(train_step, forward, values, example_batch, numbers=numbers, own_names=own_names(model)), train_step


def state_values(model: RewrittenModel, *graphs: StepGraph) -> dict[str, Tensor]:
    """Initial content of every state tensor: the model's own, zero for the optimizer's."""
    known = dict([*model.named_parameters(), *model.named_buffers()])
    values: dict[str, Tensor] = {}
    for graph in graphs:
        for name in graph.state:
            like = graph.node(name).meta["val"]
            values[name] = known[name].detach() if name in known else torch.zeros(like.shape, dtype=like.dtype)
    return values


def _board_figures(measured: BoardReport, program: StepProgram, check: Check) -> dict[str, object]:
    host = HostProgram(program.data)
    for inputs in check.calls:
        host.run("train_step", *inputs)
    drift, at = 0.0, 0
    for expected in host.run("get_weights"):
        got = torch.frombuffer(bytearray(measured.weights[at : at + expected.nbytes]), dtype=expected.dtype)
        drift, at = max(drift, float((got.double() - expected.flatten().double()).abs().max())), at + expected.nbytes
    prediction = host.run("forward", check.calls[-1][0])[0].numpy()
    return {
        "board": measured.board.name,
        "cpu": measured.board.cpu,
        "steps": len(check.calls),
        "instructions_per_training_step": measured.instructions_per("train_step"),
        "instructions_per_inference": measured.instructions_per("forward"),
        "flash_bytes": measured.flash,
        "flash_constants_bytes": measured.constants,
        "ram_bytes": measured.ram,
        "stack_bytes": max(measured.stack.values()),
        "weight_difference_to_host": drift,
        # of the largest logit where that is above 1, as everywhere in the check: a goodness is a sum over units
        "prediction_difference_to_host": float(np.abs(prediction - measured.outputs[-1][0]).max() / max(1.0, np.abs(prediction).max())),
    }


def _ledger(model: RewrittenModel, example_batch: Batch, loss, momentum: float, int8: bool, written: Written, core: str) -> dict[str, int]:
    """Memory of the program as generated, and what the cost ledger says of the step, scheduled as a device with fused loops would run
    it."""
    width = "mixed" if int8 else "fp32"
    cost = price(trace_step(model, example_batch, loss=loss, momentum=momentum), model, width=width)
    return {
        "shipped_ram_bytes": sum(shipped_ram(written).values()),
        "shipped_constants_bytes": written.constants,
        "shipped_flash_bytes": shipped_flash(written)[core],
        "scheduled_ram_bytes": cost.peak_ram_bytes,
        "flash_bytes": cost.flash_bytes,
        "macs_per_step": cost.total_macs,
    }
