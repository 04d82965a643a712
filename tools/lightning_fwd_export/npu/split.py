"""What learns taken out of the constants, into memory regions of its own: constants and command stream stay in Flash, the rest lies in RAM.

The command stream is rewritten once, at export: ``SCALE_REGION`` and ``SCALE_BASE`` of every convolution point into one table of all
records, and
where wanted ``WEIGHT_REGION`` of the last layer points to uncompressed weights. Nothing of it changes on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ExportError
from .binary import ARENA, CONSTANTS, Binary
from .command_stream import Command, operations, read_commands, set_register, write_commands
from .compile import NpuProgram
from .find_records import tables
from .records import RECORD, Record
from .simulator.weights import stream_order
from .tosa_graph import TosaGraph
from .uncompressed import encode_weights

#: numbers of the memory regions beside constants (0) and arena (1). Arm's driver puts a fast memory, if it has one, into region 2
RECORDS, WEIGHTS = 3, 4
_CONVOLUTIONS = ("CONV", "DEPTHWISE")


@dataclass(frozen=True)
class SplitProgram:
    """A program whose records lie in one table of their own.

    Attributes:
        binary: its stream reads records from region :data:`RECORDS`.
        table: the records as compiled, padded as the compiler pads.
        places: by layer: the table's offset of every channel's record.
    """

    program: NpuProgram
    binary: Binary
    table: bytes
    places: Mapping[str, tuple[int, ...]]

    def regions(self) -> dict[int, bytearray | bytes]:
        """Memory regions for the simulator, the table fresh and writable."""
        return {CONSTANTS: self.binary.constants, RECORDS: bytearray(self.table)}

    def read(self, table: bytes, layer: str) -> list[Record]:
        """A layer's records in a table."""
        return [Record.decode(table[at : at + RECORD], self.binary.accelerator) for at in self.places[layer]]

    def write(self, table: bytearray, layer: str, records: Sequence[Record]) -> None:
        """Rewrite a layer's records in a table: all that learning does to the NPU."""
        for at, record in zip(self.places[layer], records, strict=True):
            table[at : at + RECORD] = record.encode(self.binary.accelerator)


def split_records(program: NpuProgram) -> SplitProgram:
    """Move all records of a program into one table.

    Raises:
        ExportError: an Ethos-U85 (its stream repeats a scale of each layer: it must lie in RAM with the constants, see ``patch``), or an
            Ethos-U65 (its stream keeps activations in two memories).
    """
    binary = program.binary
    if any(layer.registers for layer in program.layers.values()):
        raise ExportError(
            f"the records of {binary.accelerator} cannot move to a table of their own",
            "its command stream repeats the scale of each layer's first channel",
            "keep command stream and constants in RAM and patch both, or take an Ethos-U55 or U65",
        )
    _check_regions(binary)
    moved, table = {}, bytearray()
    for piece in tables(binary):
        if piece.offset not in moved:
            moved[piece.offset] = len(table), piece.length
            table += binary.constants[piece.offset : piece.offset + piece.length]

    def place(offset: int) -> int:
        start = max(at for at in moved if at <= offset)
        return moved[start][0] + offset - start

    if any(len(channel) != 1 for layer in program.layers.values() for channel in layer.offsets):
        raise ExportError("a record lies at several places of the constants", "", "report the network")
    places = {name: tuple(place(channel[0]) for channel in layer.offsets) for name, layer in program.layers.items()}
    stream = _pointed_to_table(binary, [moved[piece.offset][0] for piece in tables(binary)])
    return SplitProgram(program, replace(binary, commands=write_commands(binary.commands, stream)), bytes(table), places)


def _check_regions(binary: Binary) -> None:
    taken = {command.value & 0xFF for command in read_commands(binary.commands)[0] if command.name.endswith("_REGION")}
    if more := taken - {CONSTANTS, ARENA}:
        raise ExportError(
            f"the records of {binary.accelerator} cannot move to a table of their own",
            f"the command stream keeps activations in memory region {min(more)}, an SRAM of its own, and what is split has one arena",
            "patch the constants in place, or take an Ethos-U55",
        )


@dataclass(frozen=True)
class FreeWeights:
    """The weights of one layer, uncompressed, in region :data:`WEIGHTS`.

    Attributes:
        data: the stream that the NPU reads.
        places: number within the stream of each weight ``(out, in)``; see :func:`.uncompressed.put_weight`.
    """

    data: bytes
    places: np.ndarray


def free_weights(split: SplitProgram, layer: str) -> tuple[SplitProgram, FreeWeights]:
    """Let a linear layer read uncompressed weights from a region of their own.

    Raises:
        ExportError: not a linear layer or 1x1 convolution, one that the compiler cut in pieces, or weights of -128.
    """
    convolution = split.program.layers[layer].convolution
    weight = TosaGraph(split.program.tosa).constant(convolution.weight)
    commands, _ = read_commands(split.binary.commands)
    mine = [
        (dict(registers), at)
        for (command, registers), at in zip(operations(commands), (k for k, c in enumerate(commands) if c.starts), strict=True)
        if command.name in _CONVOLUTIONS and registers["SCALE_BASE"] in split.places[layer]
    ]
    if convolution.depthwise or weight.shape[1:3] != (1, 1) or len(mine) != 1:
        raise ExportError(
            f"the weights of {layer} cannot be freed", "it is no linear layer that the NPU computes in one operation", "take the last layer"
        )
    ((registers, at),) = mine
    order = stream_order(
        split.binary.accelerator,
        convolution.channels,
        (1, 1),
        weight.shape[-1],
        registers["OFM_BLK_DEPTH_M1"] + 1,
        False,
        bool(registers["KERNEL_STRIDE"] & 4),
    )
    data = encode_weights(np.where(order >= 0, weight.ravel()[np.maximum(order, 0)], 0))
    places = np.empty(weight.size, np.int64)
    places[order[order >= 0]] = np.flatnonzero(order >= 0)
    own = {"WEIGHT_REGION": WEIGHTS, "WEIGHT_BASE": 0, "WEIGHT_LENGTH": len(data)}
    back = [set_register(name, registers[name]) for name in own]  # what the operations behind it take for given
    stream = [*commands[:at], *(set_register(*pair) for pair in own.items()), commands[at], *back, *commands[at + 1 :]]
    binary = replace(split.binary, commands=write_commands(split.binary.commands, stream))
    return replace(split, binary=binary), FreeWeights(data, places.reshape(weight.shape[0], -1))


def _pointed_to_table(binary: Binary, bases: Iterable[int]) -> list[Command]:
    """The stream with every convolution's records read from the table; ``bases`` in the order of :func:`tables`."""
    bases, stream, set_to = iter(bases), [], {}
    for command in read_commands(binary.commands)[0]:
        if command.name in ("SCALE_REGION", "SCALE_BASE"):
            continue
        if command.name in _CONVOLUTIONS:
            wanted = {"SCALE_REGION": RECORDS, "SCALE_BASE": next(bases)}
            stream += [set_register(name, value) for name, value in wanted.items() if set_to.get(name) != value]
            set_to |= wanted
        stream.append(command)
    return stream
