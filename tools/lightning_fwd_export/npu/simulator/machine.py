"""The simulator: walks through the command stream and lets each operation work on the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..binary import CONSTANTS, Binary
from ..command_stream import read_commands
from .memory import Memory, NotSimulated
from .operations import add_or_multiply, convolve, pool
from .weights import MICRO_BLOCKS

_NOTHING_TO_DO = ("DMA_WAIT", "KERNEL_WAIT", "IRQ", "PMU_MASK")


class Simulator:
    """A compiled network that runs.

    Args:
        binary: for an Ethos-U55.
        regions: memory regions besides the arena, by number (default: the constants, as :attr:`regions` 0). A bytearray may be written to
            between runs; that is what a device does when it learns.

    Raises:
        NotSimulated: another accelerator; when run, an operation that it does not know.
    """

    def __init__(self, binary: Binary, regions: Mapping[int, bytearray | bytes] | None = None):
        if binary.accelerator not in MICRO_BLOCKS:
            raise NotSimulated(f"{binary.accelerator}: known are {', '.join(MICRO_BLOCKS)}")
        self.binary = binary
        self.regions = {CONSTANTS: bytearray(binary.constants)} if regions is None else regions
        self._commands, _ = read_commands(binary.commands)
        self._weights: dict[tuple, Tensor] = {}
        self.runs = 0

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run a batch.

        Args:
            inputs: int8, per input of the binary ``(B, ...)``, channels last.

        Returns:
            int8 ``(B, bytes)`` per output of the binary.
        """
        if len(inputs) != len(self.binary.inputs):
            raise ValueError(f"{len(inputs)} inputs, the program has {len(self.binary.inputs)}")
        memory = self.load(dict(enumerate(inputs)))
        self.run(memory)
        return [self.read(memory, output) for output in range(len(self.binary.outputs))]

    def load(self, inputs: Mapping[int, np.ndarray]) -> Memory:
        """Memory for a batch with these inputs, by their numbers; others can be written later."""
        memory = Memory(self.regions, self.binary.arena, len(next(iter(inputs.values()))))
        for number, values in inputs.items():
            self.write(memory, number, values)
        return memory

    def write(self, memory: Memory, number: int, values: np.ndarray) -> None:
        """One input of the binary, by its number."""
        slot = self.binary.inputs[number]
        flat = torch.from_numpy(np.ascontiguousarray(values)).reshape(memory.batch, slot.size)
        memory.arena[:, slot.offset : slot.offset + slot.size] = flat

    def read(self, memory: Memory, number: int) -> np.ndarray:
        """int8 ``(B, bytes)``: one output of the binary, by its number."""
        slot = self.binary.outputs[number]
        return memory.arena[:, slot.offset : slot.offset + slot.size].numpy().copy()

    def run(self, memory: Memory) -> None:
        """The command stream, once for each image of the memory."""
        self.runs += memory.batch
        registers: dict[str, int] = {}
        for command in self._commands:
            match command.name:
                case _ if not command.starts:
                    registers[command.name] = command.value
                case "CONV" | "DEPTHWISE":
                    convolve(memory, registers, command.name == "DEPTHWISE", self.binary.accelerator, self._weights)
                case "POOL":
                    pool(memory, registers, command.param)
                case "ELEMENTWISE":
                    add_or_multiply(memory, registers, command.param)
                case "DMA_START":
                    memory.copy(registers)
                case "STOP":
                    return
                case name if name not in _NOTHING_TO_DO:
                    raise NotSimulated(f"operation {name}")


def in_batches(simulate: Simulator, inputs: Sequence[np.ndarray], size: int = 64) -> list[np.ndarray]:
    """A large batch in pieces that fit the cache."""
    pieces = [simulate(*(x[at : at + size] for x in inputs)) for at in range(0, len(inputs[0]), size)]
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
