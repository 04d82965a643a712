"""Where in a compiled network the records of every convolution lie, found by a dye.

The compiler splits a convolution by depth, interleaves its channels over two cores and orders the parts as its schedule wants. So the
network is compiled once more with constants that name the channel (a bias and a multiplier that occur nowhere else); the records in that
binary say whose they are. Then the real binary is checked: at every place found it must hold the record that the network's own constants
ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ExportError
from .binary import CONSTANTS, Binary, compile_tosa
from .command_stream import operations, read_commands, set_register, write_commands
from .records import RECORD, Record
from .tosa_graph import Convolution, TosaGraph


@dataclass(frozen=True)
class LayerRecords:
    """The records of one convolution.

    Attributes:
        offsets: per channel, the places of its record among the constants (several where the compiler repeats a table).
        registers: commands of the stream that hold channel 0's scale as well (U85), by their number.
    """

    convolution: Convolution
    offsets: tuple[tuple[int, ...], ...]
    registers: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """One operation's records, as the stream points to them: ``offset`` among the constants, ``length`` bytes, padding included."""

    offset: int
    length: int


def find_records(tosa: bytes, binary: Binary) -> tuple[LayerRecords, ...]:
    """The records of every convolution, in the order of the TOSA graph.

    Args:
        tosa: what ``binary`` was compiled from.

    Raises:
        ExportError: a record is not where the dye says, or two convolutions share all their constants.
    """
    graph = TosaGraph(tosa)
    dyed, colours = _dye(tosa)
    places, registers = _places(compile_tosa(dyed, binary.accelerator))
    return tuple(
        _checked(graph, convolution, colours[convolution.output], places, registers, binary) for convolution in graph.convolutions()
    )


def wanted_records(graph: TosaGraph, convolution: Convolution) -> list[Record]:
    """What the constants of a TOSA graph ask for, channel by channel."""
    names = (convolution.bias, convolution.multiplier, convolution.shift)
    columns = [np.broadcast_to(graph.constant(name), convolution.channels) for name in names]
    return [Record.of(*channel) for channel in zip(*columns, strict=True)]


def tables(binary: Binary) -> Iterator[Table]:
    """Every table of records that a convolution of the stream reads, traced back through DMA to the constants."""
    copies: dict[int, tuple[int, int]] = {}  # of constants into the arena: destination -> source, length
    for command, registers in operations(read_commands(binary.commands)[0]):
        if command.name == "DMA_START" and registers["DMA0_SRC_REGION"] & 0xFF == CONSTANTS:
            start, length = registers["DMA0_DST"], registers["DMA0_LEN"]
            copies = {at: copy for at, copy in copies.items() if at + copy[1] <= start or start + length <= at}
            copies[start] = registers["DMA0_SRC"], length
        elif command.name in ("CONV", "DEPTHWISE"):
            for core in ("SCALE", "SCALE1") if "u65-512" in binary.accelerator else ("SCALE",):
                base, length = registers.get(f"{core}_BASE", 0), registers.get(f"{core}_LENGTH", 0)
                if not length:
                    continue
                if registers["SCALE_REGION"] != CONSTANTS:
                    at = next(at for at, copy in copies.items() if at <= base < at + copy[1])
                    base = copies[at][0] + base - at
                yield Table(base, length)


def patch(binary: Binary, changes: Mapping[LayerRecords, Sequence[Record]]) -> Binary:
    """The binary with other records: what a device does in place. ``changes`` holds all channels of each layer that changes."""
    constants, commands = bytearray(binary.constants), read_commands(binary.commands)[0]
    for layer, records in changes.items():
        for offsets, record in zip(layer.offsets, records, strict=True):
            for offset in offsets:
                constants[offset : offset + RECORD] = record.encode(binary.accelerator)
        for at in layer.registers:
            rounding = commands[at].value >> 38 << 38  # what stands above scale (32 bits) and shift (6 bits) stays
            commands[at] = set_register("OFM_SCALE", records[0].scale | records[0].shift << 32 | rounding)
    return replace(binary, constants=bytes(constants), commands=write_commands(binary.commands, commands))


def _dye(tosa: bytes) -> tuple[bytes, dict[str, list[tuple[int, int]]]]:
    """The graph with constants that name channels, and every convolution's (bias, scale) per channel.

    Multipliers stay odd and of full length, as those of a quantised network are. Constants that convolutions share are dyed once.
    """
    graph, colour, done = TosaGraph(tosa), 0, set()
    for convolution in graph.convolutions():
        for name, first, step in ((convolution.bias, 1, 1), (convolution.multiplier, 2**30 + 1, 2)):
            if name not in done:
                done.add(name)
                values = graph.constant(name)
                values[...] = first + step * np.arange(colour, colour + values.size)
                colour += values.size
    return bytes(graph), {c.output: [(r.bias, r.scale) for r in wanted_records(graph, c)] for c in graph.convolutions()}


def _places(dyed: Binary) -> tuple[dict[tuple[int, int], list[int]], dict[int, list[int]]]:
    """Of every colour: its places among the constants; of every dyed scale: the commands that hold it too."""
    places: dict[tuple[int, int], list[int]] = {}
    for table in sorted(set(tables(dyed)), key=lambda table: table.offset):
        for at in range(table.offset, table.offset + table.length - RECORD + 1, RECORD):
            record = Record.decode(dyed.constants[at : at + RECORD], dyed.accelerator)
            places.setdefault((record.bias, record.scale), []).append(at)
    registers: dict[int, list[int]] = {}
    for k, command in enumerate(read_commands(dyed.commands)[0]):
        if command.name == "OFM_SCALE":
            registers.setdefault(command.value & 0xFFFFFFFF, []).append(k)
    return places, registers


def _checked(graph, convolution: Convolution, colours, places, registers, binary: Binary) -> LayerRecords:
    offsets = tuple(tuple(places.get(colour, ())) for colour in colours)
    if any(len(colour_places) == 0 for colour_places in offsets):
        raise ExportError(f"the records of {convolution.output} are not in the compiled network", "", "compile it for another accelerator")
    if len(set(colours)) < len(colours):
        raise ExportError(f"channels of {convolution.output} share all their constants", "", "give it a bias of its own")
    for channel, (wanted, found) in enumerate(zip(wanted_records(graph, convolution), offsets, strict=True)):
        for at in found:
            got = Record.decode(binary.constants[at : at + RECORD], binary.accelerator)
            if got != wanted:
                raise ExportError(
                    f"channel {channel} of {convolution.output}: the compiled network holds {got}, its constants ask for {wanted}",
                    "this compiler lays records out otherwise when their values change",
                    "use the Vela that the extra [npu] installs",
                )
    return LayerRecords(convolution, offsets, tuple(registers.get(colours[0][1], ())))
