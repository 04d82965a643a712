"""A step in integers as a program: built, and held bit for bit against Python by the very C that goes to the board."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from lightning_fwd.data.inputs import InputForm
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.lowering import RATE
from lightning_fwd.integer.masters import quantise
from lightning_fwd.integer.rate import Rate

from .boards import run_on_board
from .boards.board import Board
from .c_code.prepare import add_prepare
from .c_code.selftest import write_selftest
from .check import Batch, Check, board_calls, golden_calls
from .code_size import shipped_flash, shipped_ram
from .errors import ExportError
from .folder import clear_export, write_report
from .generate_c import translate, write_sources
from .host.runtime import compiler, run_tool
from .program import StepProgram, build_program
from .pte import Program
from .report import ExportReport
from .weights_table import own_names, write_weights_table

RESULTS = ("logits", "logits_exponent")


def build_integer(model: RewrittenModel, example_batch: Batch) -> StepProgram:
    """Program of a model under :class:`IntegerRule`; its exponents are those of the model, or found on the example batch.

    Methods take int8 input (exponent in ``LFWD_INPUT_EXPONENT``), labels, and the rate as three int32: multiplier, exponent, momentum in
    Q15.
    """
    rule, (x, target) = model.method, example_batch
    step = rule.calibrate(model, x, target)
    forward = rule.calibrated_prediction(model, x)
    values = rule.integers(model, forward) | rule.integers(model, step)
    numbers = {"input_exponent": int(model.inserted.integer.input)}
    batch = (quantise(x, model.inserted.integer.input), target, rule.rate.integers())
    names = own_names(model, rule.stored_as(model, step))
    return build_program(step.graph, forward.graph, values, batch, numbers=numbers, results=RESULTS, own_names=names)


def integer_calls(model: RewrittenModel, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
    """Batches as the program takes them, at the model's rate."""
    for x, target in batches:
        yield quantise(x, model.inserted.integer.input), target, model.method.rate.integers()


def reference_run(
    model: RewrittenModel, calls: list[tuple[Tensor, ...]], example_batch: Batch
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """What Python computes: results of every step, and the state after the last. The model is left as it was."""
    rule: IntegerRule = model.method
    step = rule.calibrate(model, *example_batch)
    state, results = rule.integers(model, step), []
    for x, target, rate in calls:
        results.append(step.graph.run(model, x, target, **state, **{RATE: rate}))
        state = state | {name: results[-1][name] for name in step.graph.mutated}
    return results, state


class HostLibrary:
    """Generated C, compiled for this machine and called through ctypes; one state per instance."""

    def __init__(self, sources: dict[str, str], checked: Program):
        self.methods = checked.methods
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        write_sources(sources, folder)
        # -Bsymbolic: the kernels of the host runtime have the same names and are loaded for all
        flags = ["-std=c99", "-O2", "-fno-strict-aliasing", "-fPIC", "-shared", "-Wl,-Bsymbolic", f"-I{folder}", f"-I{folder / 'kernels'}"]
        named = ("integer_*.c", "conv2d_s8*.c", "depthwise_s8*.c", "elementwise_s8.c", "copy.c", "index.c")
        kernels = [file for name in named for file in sorted((folder / "kernels").glob(name))]
        files = [str(folder / "lfwd_model.c"), *map(str, kernels)]
        run_tool([compiler("gcc"), *flags, *files, "-lm", "-o", str(folder / "step.so")], "compiling the step for the host")
        self._library = ctypes.CDLL(str(folder / "step.so"))
        self.begin()

    def begin(self) -> None:
        """The initial weights again."""
        self._library.lfwd_init()

    def run(self, method: str, *inputs: Tensor) -> list[np.ndarray]:
        """Outputs of one method."""
        given = [np.ascontiguousarray(t.numpy()) for t in inputs]
        kinds = {"int8_t": np.int8, "int16_t": np.int16, "int32_t": np.int32, "int64_t": np.int64, "uint8_t": np.uint8}
        made = [np.zeros(t.shape, kinds[t.ctype]) for t in self.methods[method].outputs]
        getattr(self._library, f"lfwd_{method}")(*(ctypes.c_void_p(a.ctypes.data) for a in (*given, *made)))
        return made

    def weights(self) -> bytes:
        """All that the step learned, one tensor after the other."""
        content = np.zeros(sum(t.nbytes for t in self.methods["get_weights"].outputs), np.uint8)
        self._library.lfwd_get_weights(ctypes.c_void_p(content.ctypes.data))
        return content.tobytes()


def check_integer(
    program: StepProgram,
    checked: Program,
    sources: dict[str, str],
    model: RewrittenModel,
    batches: list[Batch],
    example_batch: Batch,
) -> tuple[Check, bytes]:
    """Hold the program's C on this machine against Python: every logit of every step and every weight at the end, bit for bit.

    Returns:
        the check, and the bytes of all weights after the last step.

    Raises:
        ExportError: a bit differs.
    """
    calls = list(integer_calls(model, batches))
    results, state = reference_run(model, calls, example_batch)
    library = HostLibrary(sources, checked)
    for k, (inputs, expected) in enumerate(zip(calls, results, strict=True)):
        got = library.run("train_step", *inputs)
        for name, value in zip(RESULTS, got, strict=True):
            if not np.array_equal(value, expected[name].numpy()):
                raise ExportError(f"{name} of step {k} differ from Python: a defect worth reporting. Nothing is written")
    learned = library.weights()
    if learned != (wanted := expected_weights(program, state)):
        at = next(i for i, (a, b) in enumerate(zip(learned, wanted, strict=True)) if a != b)
        raise ExportError(
            f"weights differ from Python from byte {at} on after {len(calls)} steps: a defect worth reporting. Nothing is written"
        )
    return Check(len(calls), 0.0, 0.0, 0.0, calls), learned


def expected_weights(program: StepProgram, state: dict[str, Tensor]) -> bytes:
    """The bytes that ``lfwd_get_weights`` gives for a state."""
    return b"".join(np.ascontiguousarray(state[name].numpy()).tobytes() for name in program.learned)


def export_integer(
    model: RewrittenModel,
    example_batch: Batch,
    out: Path,
    target_board: Board | None,
    batches: list[Batch],
    lr: float,
    momentum: float,
    prefix: str,
    form: InputForm | None,
    progress: Callable[[str], None],
) -> tuple[StepProgram, ExportReport]:
    """Export a step in integers; see :func:`lightning_fwd_export.export`. Rate and momentum are inputs of the step: here those of the
    check.

    Raises:
        ExportError: an operation has no kernel, or a bit differs between Python, this machine and the board. Nothing is written then.
    """
    if model.method.rate.optimizer is None:
        model.method.rate = Rate(lr, momentum)
    progress("lowering the step to integers")
    program = build_integer(model, example_batch)
    checked, written = translate(program.data, "step.pte")
    sources = written.files
    progress(f"holding {len(batches)} steps against Python, bit for bit")
    check, learned = check_integer(program, checked, sources, model, batches, example_batch)
    measured = None
    if target_board is not None:
        progress(f"training on {target_board.name}")
        with tempfile.TemporaryDirectory() as folder:
            write_sources(sources, folder)
            measured = run_on_board(folder, target_board, checked, board_calls(check))
        if measured.weights != learned:
            raise ExportError(f"weights learned on {target_board.name} differ from Python's: a defect worth reporting. Nothing is written")
    code = out / "c"
    sources["lfwd_selftest.c"] = write_selftest(HostLibrary(sources, checked).run, golden_calls(check))
    add_prepare(sources, form, checked)
    clear_export(out)
    write_sources(sources, code, prefix)
    (out / "step.pte").write_bytes(program.data)
    step = model.method.calibrate(model, *example_batch)
    write_weights_table(out, model, program, checked, written, model.method.stored_as(model, step))
    report = ExportReport(str(out / "step.pte"), str(code), program.weights, check.steps, 0.0, *program.arenas["train_step"])
    report.ram_bytes, report.flash_bytes = shipped_ram(written), shipped_flash(written)
    if measured is not None:
        report.board = {
            "board": measured.board.name,
            "cpu": measured.board.cpu,
            "steps": check.steps,
            "instructions_per_training_step": measured.instructions_per("train_step"),
            "instructions_per_inference": measured.instructions_per("forward"),
            "flash_bytes": measured.flash,
            "flash_constants_bytes": measured.constants,
            "ram_bytes": measured.ram,
            "stack_bytes": max(measured.stack.values()),
            "weight_difference_to_host": 0.0,
        }
    write_report(report, out)
    return program, report
