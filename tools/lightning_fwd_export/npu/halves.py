"""A command stream cut in two where it first reads one of its inputs: what comes before can be looked at before that input is known.

A program with the way back needs the error, which needs the program's own logits. Cut there, an image runs through the network once: the
first half ends with the logits, the CPU writes the error into the arena, the second half goes on with the arena as it is.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import ExportError
from .binary import ARENA, Binary
from .command_stream import operations, read_commands, set_register, write_commands

_KERNELS = ("CONV", "DEPTHWISE", "POOL", "ELEMENTWISE")


def cut_before(binary: Binary, late_input: int, early_outputs: tuple[int, ...]) -> tuple[Binary, Binary]:
    """The binary in two: before and from the first operation on that reads an input.

    Args:
        late_input: number of that input. early_outputs: numbers of the outputs that the first half must have computed.

    Raises:
        ExportError: nothing reads the input, or the compiler put one of these outputs behind the cut.
    """
    slot, commands = binary.inputs[late_input], read_commands(binary.commands)[0]
    starts = iter([at for at, command in enumerate(commands) if command.starts])
    waiting, written = {binary.outputs[k].offset for k in early_outputs}, set()
    for command, registers in operations(commands):
        cut = next(starts)
        if command.name in _KERNELS:
            maps = ("IFM", "IFM2") if command.name == "ELEMENTWISE" else ("IFM",)
            if any(registers.get(f"{name}_REGION") == ARENA and registers.get(f"{name}_BASE0") == slot.offset for name in maps):
                break
            written.add(registers["OFM_BASE0"])
    else:
        raise ExportError("the command stream cannot be cut", f"no operation reads input {late_input}", "report the network")
    if not waiting <= written:
        raise ExportError(
            "the command stream cannot be cut", f"an output is computed behind the first use of input {late_input}", "report the network"
        )
    # the operation's own registers stand before it: both halves hold them
    first = [*commands[:cut], commands[-1]]
    second = [*(set_register(name, value) for name, value in registers.items()), *commands[cut:]]
    return tuple(replace(binary, commands=write_commands(binary.commands, stream)) for stream in (first, second))
