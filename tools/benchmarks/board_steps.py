"""Training steps that are held against an int8 inference of the same network: what a device pays for learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fwd_export.boards.board import Board
from lightning_fwd_export.check import example_batches
from lightning_fwd_export.export_step import export_program
from lightning_fwd_export.generate_c import pte_to_c
from lightning_fwd_export.mixed import quantise_input

import lightning_fwd as lf

from .board_layers import Layer, by_layer


@dataclass(frozen=True)
class Case:
    """What trains of a network; what lies before is int8, or float where nothing does."""

    network: str
    what: str
    train: Sequence[str] | Mapping[str, float]
    biases: str = "trained"
    int8: bool = True


CASES = [
    Case("mobilenet_v1_025", "classifier", ["classifier"]),
    Case("mobilenet_v1_025", "pointwise 13", ["block13.pointwise", "classifier"]),
    Case("streaming_wake_word", "block 4", ["block4", "classifier"]),
    Case("resnet8", "block 3", ["block3", "classifier"]),
    Case("resnet8", "block 3's weights", ["block3.conv1", "block3.conv2", "block3.shortcut", "classifier"]),
    Case("resnet8", "half of blocks 1-2, all biases, in float", {"block1": 0.5, "block2": 0.5}, "all", int8=False),
]


@dataclass
class Step:
    """A training step on a board; ``inference``: instructions of the whole network's int8 inference there, ``ram``: as shipped.

    ``too_large``: why the board was left out, with no instructions then.
    """

    network: str
    what: str
    board: str
    instructions: int
    inference: int
    ram: int
    layers: list[Layer] = field(default_factory=list)
    too_large: str = ""

    @property
    def ratio(self) -> float:
        return self.instructions / self.inference


# what the firmware that measures takes beside the program: the stack; and files through the debugger, which a product has not
STACK, FILES = 8 << 10, 64 << 10


def measure_steps(case: Case, net: torch.nn.Module, samples: list[torch.Tensor], inferences: dict[Board, int], code: Path) -> list[Step]:
    """Export the step into ``code`` and run it on each board that holds it, its stack and what measures it.

    Args:
        net: changed by nothing. samples: one batch each; they calibrate the int8 body.
        inferences: instructions of the whole network's int8 inference, by board.
    """
    target = torch.zeros(1, dtype=torch.int64)
    model = lf.rewrite(net, lf.SparseUpdate(train=case.train, biases=case.biases), samples[0])
    program, report = export_program(
        model, (samples[0], target), code, calibration=samples if case.int8 else None, int8=case.int8, lr=1e-5, steps=2
    )
    checked, ram = pte_to_c(program.data, code / "c"), report.ledger["shipped_ram_bytes"]
    x, y = next(iter(example_batches((samples[0], target), net.num_classes, 1)))
    inputs = (quantise_input(x, program.numbers) if case.int8 else x, y)
    found = []
    for board, inference in inferences.items():
        needs = {"RAM": (ram, STACK, board.ram[1]), "Flash": (report.flash_bytes[board.cpu], FILES, board.flash[1])}
        too_large = ", ".join(f"{n:,} B of {where}" for where, (n, beside, has) in needs.items() if n + beside > has)
        instructions, layers = 0, []
        if not too_large:
            instructions, layers, _ = by_layer(code / "c", checked.methods["train_step"], inputs, board)
        found.append(Step(case.network, case.what, board.name, instructions, inference, ram, layers, too_large))
    return found
