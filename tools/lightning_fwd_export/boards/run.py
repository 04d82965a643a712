"""Build generated C for a board, run samples on the emulator, read outputs, instructions, stack, Flash and RAM."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import ExportError
from ..pte import Method, Program, Tensor
from .board import Board, board
from .build import BARE, FOOTPRINT, GCC, QEMU, RUNNER, SEMIHOSTED, SIZE, compile_model, emulate, link, linked_constants, linked_sizes

PACKAGES = "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
_DTYPES = {"float": "<f4", "int8_t": "i1", "uint8_t": "u1", "int16_t": "<i2", "int32_t": "<i4", "int64_t": "<i8"}


@dataclass
class BoardReport:
    """What a run on a board gave.

    Attributes:
        board: where it ran.
        outputs: per call, the method's outputs in order.
        instructions: per call, emulated instructions (not cycles).
        methods: per call, the method's name.
        stack: deepest stack in bytes, per method.
        flash, ram: bytes of the linked firmware: code and constants; static data (planned memory included, stack and the
            caller's buffers not).
        constants: the part of ``flash`` that is the program's own numbers: weights, their initial values, requantisation.
        weights: bytes of all weights after the last call, None if the program has no ``get_weights``.
    """

    board: Board
    outputs: list[list[np.ndarray]] = field(default_factory=list)
    instructions: list[int] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    stack: dict[str, int] = field(default_factory=dict)
    flash: int = 0
    ram: int = 0
    constants: int = 0
    weights: bytes | None = None

    def instructions_per(self, method: str) -> int:
        """Mean over that method's calls."""
        counts = [n for n, name in zip(self.instructions, self.methods, strict=True) if name == method]
        return round(sum(counts) / len(counts)) if counts else 0


def missing_tools() -> list[str]:
    """Programs a board run needs and this machine lacks."""
    return [tool for tool in (GCC, SIZE, QEMU) if shutil.which(tool) is None]


def run_on_board(
    c_dir: str | Path,
    target: str | Board,
    program: Program,
    calls: Iterable[tuple[str, Sequence]],
    optimise: Sequence[str] = ("-O2",),
    timeout: float = 600.0,
) -> BoardReport:
    """Run calls one after the other on a board, from freshly initialised weights.

    Args:
        c_dir: what ``pte_to_c`` wrote.
        target: board or its name.
        program: what ``pte_to_c`` returned.
        calls: pairs of method name and its inputs (tensors or arrays of the method's shapes and types).
        optimise: optimisation flags, and others such as ``-DLFWD_PLAIN``.
        timeout: seconds the emulator may take.

    Raises:
        ExportError: tools are missing, the code does not build or fit, or the run ended in a fault.
    """
    target = board(target) if isinstance(target, str) else target
    if missing := missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    methods = program.methods
    runnable = [m for m in methods.values() if m.name != "get_weights"]
    weights = "lfwd_get_weights(uint8_t" in (Path(c_dir) / "lfwd_model.h").read_text()
    if not weights:
        runnable = list(methods.values())
    report = BoardReport(target)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "runner_methods.h").write_text(_runner_methods(runnable, weights))
        (work / "footprint_methods.h").write_text(_footprint_methods(runnable, weights))
        objects = compile_model(work, Path(c_dir), target, optimise)
        runner = link(work, Path(c_dir), target, RUNNER, objects, SEMIHOSTED)
        footprint = link(work, Path(c_dir), target, FOOTPRINT, objects, BARE)
        report.flash, report.ram = linked_sizes(footprint)
        report.constants = linked_constants(footprint)
        requests = _encode(runnable, calls, report)
        if weights:
            requests += struct.pack("<I", len(runnable))
        (work / "input.bin").write_bytes(requests)
        emulate(work, runner, target, timeout)
        _decode((work / "output.bin").read_bytes(), {m.name: m for m in runnable}, report, weights)
    return report


# ---- the runner's generated part and its protocol


def _buffer(t: Tensor, name: str) -> str:
    return f"static {t.ctype} {name}[{max(t.count, 1)}];"


def _runner_methods(methods: list[Method], weights: bool) -> str:
    buffers, calls, gets, puts = [], [], [], []
    for k, m in enumerate(methods):
        names = [(t, f"m{k}_in{i}") for i, t in enumerate(m.inputs)], [(t, f"m{k}_out{i}") for i, t in enumerate(m.outputs)]
        buffers += [_buffer(t, n) for t, n in names[0] + names[1]]
        calls.append(f"case {k}: lfwd_{m.name}({', '.join(n for _, n in names[0] + names[1])}); break;")
        gets.append(f"case {k}: " + " ".join(f"get({n}, sizeof {n});" for _, n in names[0]) + " break;")
        puts.append(f"case {k}: " + " ".join(f"put({n}, sizeof {n});" for _, n in names[1]) + " break;")
    if weights:
        k = len(methods)
        buffers.append("static uint8_t all_weights[LFWD_WEIGHTS_BYTES];")
        calls.append(f"case {k}: lfwd_get_weights(all_weights); break;")
        puts.append(f"case {k}: put(all_weights, sizeof all_weights); break;")

    def switch(name: str, parameters: str, cases: list[str]) -> str:
        body = "\n    ".join(cases)
        return f"static void {name}({parameters})\n{{\n    switch (method) {{\n    {body}\n    default: break;\n    }}\n}}\n"

    return "\n".join(
        [
            "#include <stddef.h>",
            *buffers,
            switch("runner_call", "uint32_t method", calls),
            switch("runner_get", "uint32_t method, void (*get)(void *, size_t)", gets).replace(
                "default: break;", "default: (void)get; break;"
            ),
            switch("runner_put", "uint32_t method, void (*put)(const void *, size_t)", puts),
        ]
    )


def _footprint_methods(methods: list[Method], weights: bool) -> str:
    calls = [f"lfwd_{m.name}({', '.join(['buffer'] * (len(m.inputs) + len(m.outputs)))});" for m in methods]
    if weights:
        calls += ["lfwd_get_weights(buffer);", "lfwd_set_weights(buffer);"]
    return "static void footprint_call(void *buffer)\n{\n    (void)buffer;\n    " + "\n    ".join(calls) + "\n}\n"


def _encode(methods: list[Method], calls: Iterable[tuple[str, Sequence]], report: BoardReport) -> bytes:
    numbers = {m.name: k for k, m in enumerate(methods)}
    chunks = []
    for name, inputs in calls:
        if name not in numbers:
            raise ExportError(f"no method {name!r}; the program has {', '.join(numbers)}")
        m = methods[numbers[name]]
        if len(inputs) != len(m.inputs):
            raise ExportError(f"{name} takes {len(m.inputs)} inputs, got {len(inputs)}")
        chunks.append(struct.pack("<I", numbers[name]))
        for t, value in zip(m.inputs, inputs, strict=True):
            chunks.append(to_memory(t, np.asarray(value)))
        report.methods.append(name)
    return b"".join(chunks)


def to_memory(t: Tensor, value: np.ndarray) -> bytes:
    """The bytes of an input as the generated C takes it.

    Raises:
        ExportError: it has another shape.
    """
    if value.shape != t.shape:
        raise ExportError(f"an input has shape {value.shape}, the program was exported for {t.shape}")
    return np.ascontiguousarray(value.astype(_DTYPES[t.ctype]).transpose(t.order)).tobytes()


def _from_memory(t: Tensor, data: bytes) -> np.ndarray:
    stored = np.frombuffer(data, _DTYPES[t.ctype]).reshape([t.shape[d] for d in t.order])
    return stored.transpose(np.argsort(t.order)) if t.shape else stored.reshape(())


def _decode(data: bytes, methods: dict[str, Method], report: BoardReport, weights: bool) -> None:
    at = 0
    for name in report.methods:
        ticks, stack = struct.unpack_from("<II", data, at)
        at += 8
        report.instructions.append(report.board.instructions(ticks))
        report.stack[name] = max(report.stack.get(name, 0), stack)
        outputs = []
        for t in methods[name].outputs:
            outputs.append(_from_memory(t, data[at : at + t.nbytes]))
            at += t.nbytes
        report.outputs.append(outputs)
    if weights:
        report.weights = data[at + 8 :]
