"""Run an exported adaptation on an emulated board: predict, collect samples, adapt, predict again."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_fwd.adaptation.draws import UNLABELLED
from lightning_fwd.integer.masters import quantise

from ..boards import Board, missing_tools
from ..boards.build import BARE, SEMIHOSTED, board_flags, compile_model, compile_object, emulate, link, linked_sizes
from ..boards.run import PACKAGES
from ..errors import ExportError

_RUNNER, _FOOTPRINT = (Path(__file__).with_name(f"{name}.c") for name in ("runner", "footprint"))
OUTCOMES = ("kept", "kept unguarded", "rolled back", "not finite", "too few samples", "no labels")  #: lfwd_outcome, in order
REPORT_BYTES = 28


@dataclass(frozen=True)
class StageReport:
    """What the device says of a stage: ``lfwd_stage_report``."""

    outcome: str
    before: float
    after: float
    judged_on: int
    epochs: int
    lost: int
    won: int

    @property
    def kept(self) -> bool:
        return self.outcome in OUTCOMES[:2]


@dataclass(frozen=True)
class BoardAdaptation:
    """What a run on a board gave.

    Attributes:
        board: its name. stages: a report for each. weights: all of them after it, as ``lfwd_get_weights`` gives them.
        before, after: logits of the test samples ``(N, C)``.
        instructions: emulated, of a prediction, of a step of each stage and, where a sensor's values are read, of making an input of them.
        between: of the ends of each stage's rounds together, 0 without rounds.
        flash, ram: bytes of the smallest firmware around the library, as linked; the caller's buffers (a sample, logits) are not in it.
    """

    board: str
    stages: list[StageReport]
    weights: bytes
    before: Tensor
    after: Tensor
    flash: int
    ram: int
    instructions: tuple[int, ...] = ()
    between: tuple[int, ...] = ()


def adapt_on_board(
    code: Path, board: Board, x: Tensor, y: Tensor | None, test: Tensor, more: Tensor | None = None, timeout: float = 3600.0
) -> BoardAdaptation:
    """Run a library on a board's emulator, with the settings of its header.

    Args:
        code: folder of its C, without a prefix of its own.
        x, y: samples ``(N, ...)`` and labels ``(N,)``, or None. more: further samples without labels. int16 (as of
            ``DriftDataModule.recorded``): what a sensor gives, the board makes inputs of it.
        test: inputs to predict before and after.

    Raises:
        ExportError: tools are missing, it does not build or fit, or the run ended in a fault.
    """
    labels = [UNLABELLED] * len(x) if y is None else y.tolist()
    inputs, macros = x if more is None else torch.cat([x, more]), macros_of(code)
    inputs, test = (as_read(part, macros) for part in (inputs, test))
    labels += [UNLABELLED] * (len(inputs) - len(x))
    parts = [struct.pack("<II", len(inputs), len(test))]
    parts += [struct.pack("<i", label) + as_bytes(sample) for label, sample in zip(labels, inputs, strict=True)]
    raw = [f"-DRAW={inputs[0].numel()}"] if inputs.dtype is torch.int16 else []
    data, flash, ram = run_library(code, board, _RUNNER, raw, b"".join([*parts, as_bytes(test)]), timeout)
    return _read(data, board, macros, len(test), flash, ram)


def run_library(code: Path, board: Board, main: Path, more: list[str], content: bytes, timeout: float) -> tuple[bytes, int, int]:
    """Link a library to ``main`` and run it on what ``input.bin`` is to hold: ``output.bin``, and Flash and RAM of the smallest firmware.

    Raises:
        ExportError: tools are missing, it does not build or fit, or the run ended in a fault.
    """
    if missing := missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        flags = [*board_flags(board), f"-I{code}", f"-I{code / 'kernels'}"]
        objects = [*compile_model(work, code, board, ["-O2"]), *(compile_object(file, work, flags) for file in firmware_files(code))]
        elf = link(work, code, board, main, objects, [*more, *SEMIHOSTED])
        flash, ram = linked_sizes(link(work, code, board, _FOOTPRINT, objects, [*more, *BARE]))
        (work / "input.bin").write_bytes(content)
        emulate(work, elf, board, timeout)
        return (work / "output.bin").read_bytes(), flash, ram


def macros_of(code: Path) -> dict[str, str]:
    """Numbers that a library's header defines; those without a value are empty."""
    lines = [line.split() for line in (code / "lfwd_model.h").read_text().splitlines() if line.startswith("#define ")]
    return {words[1]: words[2] if len(words) > 2 else "" for words in lines}


def as_read(x: Tensor, macros: dict[str, str]) -> Tensor:
    """Inputs as the library reads them: a library in integers in its own steps. What a sensor gives stays."""
    if "LFWD_INTEGER" not in macros or x.dtype is torch.int16:
        return x
    return quantise(x, torch.tensor([int(macros["LFWD_INPUT_EXPONENT"])], dtype=torch.int8))


def firmware_files(code: Path) -> list[Path]:
    """What a library is beside the model and its kernels."""
    return [file for file in sorted(code.glob("lfwd_*.c")) if file.stem not in ("lfwd_model", "lfwd_selftest", "lfwd_store")]


def as_bytes(x: Tensor) -> bytes:
    """Numbers as a board reads them."""
    kind = {torch.int16: "<i2", torch.int8: "<i1"}.get(x.dtype, "<f4")
    return np.ascontiguousarray(x.detach().numpy().astype(kind)).tobytes()


def read_report(data: bytes, at: int, integers: bool) -> StageReport:
    """Of a stage, as a runner writes it."""
    first, after, outcome, judged_on, epochs, lost, won = struct.unpack_from("<iiIIIII" if integers else "<ffIIIII", data, at)
    first, after = (loss / 65536 if integers else loss for loss in (first, after))
    return StageReport(OUTCOMES[outcome], first, after, judged_on, epochs, lost, won)


def _read(data: bytes, board: Board, macros: dict[str, str], tests: int, flash: int, ram: int) -> BoardAdaptation:
    stages, classes, weights = (int(macros[f"LFWD_{name}"]) for name in ("STAGES", "CLASSES", "WEIGHTS_BYTES"))
    integers = "LFWD_INTEGER" in macros
    logits, at = 4 * tests * (classes + integers), 4
    reports = [read_report(data, logits + at + k * REPORT_BYTES, integers) for k in range(stages)]
    at += logits + stages * REPORT_BYTES
    end = at + weights
    before, last = (_logits(part, tests, classes, integers) for part in (data[:logits], data[end : end + logits]))
    counted = [board.instructions(ticks) for (ticks,) in struct.iter_unpack("<I", data[end + logits :])]
    between, counted = counted[:stages], counted[stages:]
    return BoardAdaptation(board.name, reports, data[at:end], before, last, flash, ram, tuple(counted), tuple(between))


def _logits(data: bytes, tests: int, classes: int, integers: bool) -> Tensor:
    if not integers:
        return torch.tensor(np.frombuffer(data, "<f4").copy()).reshape(tests, classes)
    rows = torch.tensor(np.frombuffer(data, "<i4").copy()).reshape(tests, classes + 1)
    return (rows[:, :-1].double() * torch.exp2(-rows[:, -1:].double())).float()
