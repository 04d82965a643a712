"""Run an exported detector of anomalies on an emulated board: adapt it, calibrate its threshold there, score recordings."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy

from ..boards import Board
from .on_board import REPORT_BYTES, StageReport, as_bytes, macros_of, read_report, run_library

_RUNNER = Path(__file__).with_name("detecting_runner.c")


@dataclass(frozen=True)
class BoardDetection:
    """What a run on a board gave.

    Attributes:
        board: its name. stages: a report for each. weights: all of them after it.
        normal: scores of the recordings that made the threshold. scores: of those to judge; float32.
        instructions: emulated, of a window's score.
        flash, ram: bytes of the smallest firmware around the library, as linked.
    """

    board: str
    stages: list[StageReport]
    weights: bytes
    normal: Tensor
    threshold: float
    scores: Tensor
    instructions: int
    flash: int
    ram: int


def detect_on_board(code: Path, board: Board, x: Tensor, normal: Tensor, test: Tensor, timeout: float = 3600.0) -> BoardDetection:
    """Run a library of ``firmware.anomalies`` on a board's emulator, with the settings of its header.

    Args:
        code: folder of its C. x: normal windows to adapt with ``(N, ...)``.
        normal, test: recordings ``(R, W, ...)`` of W windows each: normal ones that make the threshold, and those to judge.

    Raises:
        ExportError: tools are missing, it does not build or fit, or the run ended in a fault.
    """
    counts = struct.pack("<IIII", len(x), len(normal), len(test), normal.shape[1])
    data, flash, ram = run_library(code, board, _RUNNER, [], counts + as_bytes(x) + as_bytes(normal) + as_bytes(test), timeout)
    macros = macros_of(code)
    stages, weights = int(macros["LFWD_STAGES"]), int(macros["LFWD_WEIGHTS_BYTES"])
    reports = [read_report(data, 4 + k * REPORT_BYTES, False) for k in range(stages)]
    at = 4 + stages * REPORT_BYTES
    floats = from_numpy(np.frombuffer(data[at + weights : -4], "<f4").copy())
    (ticks,) = struct.unpack("<I", data[-4:])
    return BoardDetection(
        board.name,
        reports,
        data[at : at + weights],
        floats[: len(normal)],
        float(floats[len(normal)]),
        floats[len(normal) + 1 :],
        board.instructions(ticks),
        flash,
        ram,
    )
