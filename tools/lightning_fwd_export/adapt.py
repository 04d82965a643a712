"""Recover from drift on an emulated board: predict, train, predict again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .boards import run_on_board
from .check import Batch
from .generate_c import pte_to_c
from .program import StepProgram


@dataclass
class Adaptation:
    """Accuracies on the same test samples before and after ``steps`` training steps on the board."""

    before: float
    after: float
    steps: int
    instructions_per_inference: int
    instructions_per_training_step: int


def adapt_on_board(program: StepProgram, board: str, train: Sequence[Batch], test: Sequence[Batch], work: str | Path) -> Adaptation:
    """Run a program on a board: every test batch, every training batch, every test batch again.

    Args:
        program: from ``export``; float batches are quantised here where it takes int8.
        train, test: batches of the program's shapes, ``(B, ...)`` and labels ``(B,)``.
        work: folder for the generated C.

    Raises:
        ExportError: as ``run_on_board``.
    """
    checked = pte_to_c(program.data, work)
    uses_target = len(checked.methods["train_step"].inputs) == 2
    prepared = [(_as_input(x, program), y) for x, y in train]
    inference = [("forward", (_as_input(x, program),)) for x, _ in test]
    steps = [("train_step", (x, y) if uses_target else (x,)) for x, y in prepared]
    report = run_on_board(work, board, checked, [*inference, *steps, *inference], timeout=3600)
    labels = torch.cat([y for _, y in test]).numpy()
    predictions = [out[0].argmax(-1) for out, name in zip(report.outputs, report.methods, strict=True) if name == "forward"]
    before, after = (np.concatenate(part) for part in (predictions[: len(test)], predictions[len(test) :]))
    return Adaptation(
        float((before == labels).mean()),
        float((after == labels).mean()),
        len(steps),
        report.instructions_per("forward"),
        report.instructions_per("train_step"),
    )


def _as_input(x: Tensor, program: StepProgram) -> Tensor:
    if "train_step_input0_scale" not in program.numbers:
        return x
    from .mixed import quantise_input

    return quantise_input(x, program.numbers)
