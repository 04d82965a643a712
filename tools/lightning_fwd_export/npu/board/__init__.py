"""The exported C on an emulated Cortex-M, bit for bit beside the Python loop, and the instructions that it takes.

The emulator has no NPU. What the simulator computes in the Python loop is recorded, run by run, and played back where the C calls
``lfwd_npu_invoke``; before each run the firmware compares table of records and input with those that the simulator had.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from ...boards import PACKAGES, board, missing_tools
from ...boards.build import GCC, SEMIHOSTED, SIZE, emulate, link, write_link_script
from ...errors import ExportError
from ...host.runtime import run_tool
from ..binary import Slot
from ..learn import Head, NpuLearner, NpuTrainer
from ..learn.learner import FEATURES, IMAGE, TAPS
from ..learn.statistics import Statistics
from ..learn.trainer import ERROR
from ..simulator import Simulator
from ..simulator.memory import Memory

_RUNNER = Path(__file__).with_name("runner.c")
_RATE, _MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class NpuBoardReport:
    """What the C took on the board's core. Its NPU's cycles come on top; instructions are not cycles.

    Attributes:
        align_instructions: of ``lfwd_align_statistics``, per image.
        step_instructions: of an ``lfwd_train_step`` without an update. update_instructions: what an update adds.
        predict_instructions: of ``lfwd_predict``.
        code_bytes: of the library without its data; the C library's functions come on top.
    """

    board: str
    cpu: str
    align_instructions: int
    step_instructions: int
    update_instructions: int
    predict_instructions: int
    code_bytes: int


class _Tape:
    """What the NPU found and left, one run after the other, as the C will call it.

    Attributes:
        halves: per command stream: where its input lies, and what it leaves for the CPU.
    """

    def __init__(self, learner: NpuLearner):
        program, binary = learner.program, learner.split.binary
        early = [program.outputs[k].slot for k in range(FEATURES, TAPS + len(learner.tapped.layers))]
        late = [output.slot for output in program.outputs[TAPS + len(learner.tapped.layers) :]]
        self.halves = [(binary.inputs[program.inputs[IMAGE].slot], [binary.outputs[k] for k in early])]
        self._table, self._runs = learner.table, ([], [])
        self._record(learner.simulator, 0)
        if isinstance(learner, NpuTrainer):
            self.halves.append((binary.inputs[program.inputs[ERROR].slot], [binary.outputs[k] for k in late]))
            self._record(learner.second_half, 1)

    def _record(self, simulator: Simulator, half: int) -> None:
        run, (given, left) = simulator.run, self.halves[half]

        def record(memory: Memory) -> None:
            table = crc32(self._table)
            inputs = [crc32(_bytes(memory, image, given), table) for image in range(memory.batch)]
            run(memory)
            for image, found in enumerate(inputs):
                outputs = b"".join(_bytes(memory, image, slot) for slot in left)
                self._runs[half].append(struct.pack("<I", found) + outputs)

        simulator.run = record  # type: ignore[method-assign]

    def take(self) -> bytes:
        """What was recorded since: the runs of both halves in turn, if both ran."""
        first, second = self._runs
        turns = [run for pair in zip(first, second, strict=True) for run in pair] if second else first
        taken = b"".join(turns)
        first.clear(), second.clear()
        return taken


def run_on_board(
    learner: NpuLearner, source: Mapping[str, Statistics], code: Path, images: np.ndarray, batch: int, name: str = "mps3-an547"
) -> NpuBoardReport:
    """Statistics, a few updates and a prediction, in Python and on an emulated board.

    Args:
        learner: fresh; it is trained. source: see :meth:`.NpuLearner.source_statistics`.
        code: what :func:`.write_c` wrote of the two.
        images: int8 ``(N, ...)``; N a multiple of ``batch``, the samples per update.

    Raises:
        ExportError: tools are missing, the code does not fit, the board has no FPU, or it does not come to the Python loop's records.
    """
    target = board(name)
    if missing := missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    if not target.has_fpu:
        raise ExportError(f"{name} with --npu", "the CPU's part is in float, and the board has no FPU", "take --board mps3-an547")
    head, labels = learner.head(_RATE, _MOMENTUM, batch, len(images) // batch), np.arange(len(images)) % len(learner.head(0, 0, 1, 1).bias)
    tape, played = _Tape(learner), bytearray()
    try:
        learner.adapt_statistics(images, source)
        played += tape.take()
        for k in range(0, len(images), batch):
            _step(learner, head, images[k : k + batch], labels[k : k + batch])
            played += tape.take()
        logits = head.logits(learner.features(images[:1]))
        played += tape.take()
    finally:
        for simulator in (learner.simulator, getattr(learner, "second_half", None)):
            if simulator is not None:
                vars(simulator).pop("run", None)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(code, work / "c")
        (work / "npu_tape.h").write_text(_header(tape, len(images), batch))
        write_link_script(work, target)
        flags = " ".join([*target.flags, "-mthumb"])
        run_tool(["make", "-C", str(work / "c"), f"CC={GCC}", "AR=arm-none-eabi-ar", f"TARGET={flags}"], "compiling the exported C")
        objects = sorted(str(path) for path in (work / "c").glob("*.o"))
        firmware = link(work, work / "c", target, _RUNNER, objects, SEMIHOSTED)
        (work / "input.bin").write_bytes(images.tobytes() + labels.astype(np.uint8).tobytes() + played)
        emulate(work, firmware, target, timeout=600.0)
        ticks, results = np.split(np.frombuffer((work / "output.bin").read_bytes(), np.uint8), [16])
        code_bytes = sum(_text(path) for path in objects if not path.endswith("model.o"))
    wanted = b"".join([bytes(learner.table), head.weight.tobytes(), head.bias.tobytes(), logits.tobytes()])
    if results.tobytes() != wanted:
        raise ExportError(f"the C on {name} learns other records than Python", "its arithmetic is another", "report the network")
    updates = len(images) // batch
    align, plain, with_update, predict = (target.instructions(n) for n in ticks.view(np.uint32))
    step = plain // (len(images) - updates)
    return NpuBoardReport(name, target.cpu, align // len(images), step, with_update // updates - step, predict, code_bytes)


def _step(learner: NpuLearner, head: Head, images: np.ndarray, labels: np.ndarray) -> None:
    if isinstance(learner, NpuTrainer):
        learner.step(head, images, labels)
    else:
        head.step(learner.features(images), labels)


def _bytes(memory: Memory, image: int, slot: Slot) -> bytes:
    return memory.arena[image, slot.offset : slot.offset + slot.size].numpy().tobytes()


def _header(tape: _Tape, images: int, batch: int) -> str:
    def slot(at: Slot) -> str:
        return f"{{{at.offset}, {at.size}}}"

    lists = [
        f"static const tape_slot tape_outputs{k}[] = {{{', '.join(map(slot, outputs))}}};" for k, (_, outputs) in enumerate(tape.halves)
    ]
    halves = [f"{{{slot(given)}, {len(outputs)}, tape_outputs{k}}}" for k, (given, outputs) in enumerate(tape.halves)]
    return "\n".join(
        [
            f"#define TAPE_IMAGES {images}",
            f"#define TAPE_BATCH {batch}",
            f"#define TAPE_RATE {_RATE}f",
            f"#define TAPE_MOMENTUM {_MOMENTUM}f",
            "typedef struct {\n    uint32_t offset, size;\n} tape_slot;",
            "typedef struct {\n    tape_slot input;\n    int count;\n    const tape_slot *outputs;\n} tape_half;",
            *lists,
            f"static const tape_half tape_halves[] = {{{', '.join(halves)}}};",
            "",
        ]
    )


def _text(path: str) -> int:
    return int(run_tool([SIZE, path], "reading sizes").splitlines()[1].split()[0])
