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

from ..boards import Board, missing_tools
from ..boards.build import BARE, SEMIHOSTED, board_flags, compile_model, compile_object, emulate, link, linked_sizes
from ..boards.run import PACKAGES
from ..errors import ExportError

_RUNNER, _FOOTPRINT = (Path(__file__).with_name(f"{name}.c") for name in ("runner", "footprint"))
OUTCOMES = ("kept", "kept unguarded", "rolled back", "not finite", "too few samples", "no labels")  #: lfwd_outcome, in order


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
        flash, ram: bytes of the smallest firmware around the library, as linked; the caller's buffers (a sample, logits) are not in it.
    """

    board: str
    stages: list[StageReport]
    weights: bytes
    before: Tensor
    after: Tensor
    flash: int
    ram: int


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
    if missing := missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    labels = [UNLABELLED] * len(x) if y is None else y.tolist()
    inputs = x if more is None else torch.cat([x, more])
    labels += [UNLABELLED] * (len(inputs) - len(x))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        flags = [*board_flags(board), f"-I{code}", f"-I{code / 'kernels'}"]
        objects = [*compile_model(work, code, board, ["-O2"]), *(compile_object(file, work, flags) for file in firmware_files(code))]
        raw = [f"-DRAW={inputs[0].numel()}"] if inputs.dtype is torch.int16 else []
        elf = link(work, code, board, _RUNNER, objects, [*raw, *SEMIHOSTED])
        flash, ram = linked_sizes(link(work, code, board, _FOOTPRINT, objects, [*raw, *BARE]))
        parts = [struct.pack("<II", len(inputs), len(test))]
        parts += [struct.pack("<i", label) + _bytes(sample) for label, sample in zip(labels, inputs, strict=True)]
        (work / "input.bin").write_bytes(b"".join([*parts, _bytes(test)]))
        emulate(work, elf, board, timeout)
        data = (work / "output.bin").read_bytes()
    return _read(data, board.name, (code / "lfwd_model.h").read_text(), len(test), flash, ram)


def firmware_files(code: Path) -> list[Path]:
    """What a library is beside the model and its kernels."""
    return [file for file in sorted(code.glob("lfwd_*.c")) if file.stem not in ("lfwd_model", "lfwd_selftest", "lfwd_store")]


def _bytes(x: Tensor) -> bytes:
    return np.ascontiguousarray(x.detach().numpy().astype("<i2" if x.dtype is torch.int16 else "<f4")).tobytes()


def _read(data: bytes, board: str, header: str, tests: int, flash: int, ram: int) -> BoardAdaptation:
    lines = [line.split() for line in header.splitlines() if line.startswith("#define ")]
    macros = {words[1]: words[2] for words in lines if len(words) > 2}
    stages, classes, weights = (int(macros[f"LFWD_{name}"]) for name in ("STAGES", "CLASSES", "WEIGHTS_BYTES"))
    logits, at = 4 * tests * classes, 4
    before = torch.tensor(np.frombuffer(data[:logits], "<f4").copy()).reshape(tests, classes)
    reports = []
    for _ in range(stages):
        first, after, outcome, judged_on, epochs, lost, won = struct.unpack_from("<ffIIIII", data, logits + at)
        reports.append(StageReport(OUTCOMES[outcome], first, after, judged_on, epochs, lost, won))
        at += 28
    at += logits
    last = torch.tensor(np.frombuffer(data[at + weights :], "<f4").copy()).reshape(tests, classes)
    return BoardAdaptation(board, reports, data[at : at + weights], before, last, flash, ram)
