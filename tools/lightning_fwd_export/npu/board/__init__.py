"""The exported C on an emulated Cortex-M, bit for bit beside the Python loop, and the instructions that it takes.

The emulator has no NPU. What the simulator computes in the Python loop is recorded, run by run, and played back where the C calls
``lfwd_npu_invoke``; before each run the firmware compares table of records and input with those that the simulator had.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from ...boards import PACKAGES, Board, board, missing_tools
from ...boards.build import GCC, SEMIHOSTED, SIZE, emulate, link, write_link_script
from ...errors import ExportError
from ...host.runtime import run_tool
from ..binary import Slot
from ..learn import ContextForwardForward, Head, NpuLearner, NpuTrainer, ZerothOrder
from ..learn.learner import FEATURES, IMAGE, TAPS
from ..learn.statistics import Statistics
from ..learn.trainer import ERROR
from ..simulator import Simulator
from ..simulator.memory import Memory
from ..split import RECORDS

_RUNNER = Path(__file__).with_name("runner.c")
_RATE, _MOMENTUM, _SPREAD, _SHARPNESS, _SEED = 0.01, 0.9, 0.1, 1.0, 1


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


class _Recorder(Simulator):
    """A simulator that notes what each of its runs finds and leaves.

    Args:
        simulator: whose place it takes.
        given: what the CPU writes before a run. left: what it reads behind it.
    """

    def __init__(self, simulator: Simulator, given: Slot, left: Sequence[Slot]):
        vars(self).update(vars(simulator))
        self.given, self.left, self._notes = given, left, []

    def run(self, memory: Memory) -> None:
        table = crc32(self.regions[RECORDS])
        found = [crc32(_bytes(memory, image, self.given), table) for image in range(memory.batch)]
        super().run(memory)
        self._notes += [
            struct.pack("<I", check) + b"".join(_bytes(memory, image, slot) for slot in self.left) for image, check in enumerate(found)
        ]

    def take(self) -> list[bytes]:
        """Its runs since, each as the firmware plays it."""
        taken, self._notes = self._notes, []
        return taken


@contextmanager
def _recorded(learner: NpuLearner) -> Iterator[list[_Recorder]]:
    """The learner with its simulators, one or two, recorded."""
    program, binary, layers = learner.program, learner.split.binary, len(learner.tapped.layers)
    whole, inputs = learner.simulator, [binary.inputs[quantised.slot] for quantised in program.inputs]
    outputs = [binary.outputs[output.slot] for output in program.outputs]
    learner.simulator = recorder = _Recorder(whole, inputs[IMAGE], outputs[FEATURES : TAPS + layers])
    try:
        if not isinstance(learner, NpuTrainer):
            yield [recorder]
            return
        second = learner.second_half
        learner.second_half = back = _Recorder(second, inputs[ERROR], outputs[TAPS + layers :])
        try:
            yield [recorder, back]
        finally:
            learner.second_half = second
    finally:
        learner.simulator = whole


def _taken(recorders: list[_Recorder], order: Iterable[int] | None = None) -> bytes:
    """What was recorded since, in the order in which the C runs it: sample by sample, a way back behind its inference.

    Args:
        order: numbers of the runs as the C has them, where a sample runs more than once.
    """
    first, *second = (recorder.take() for recorder in recorders)
    if order is not None:
        return b"".join(first[k] for k in order)
    turns = zip(first, second[0], strict=True) if second and second[0] else zip(first, strict=True)
    return b"".join(run for turn in turns for run in turn)


def require_board(name: str) -> Board:
    """The board of that name, if the exported C can run on its emulator here.

    Raises:
        ExportError: there is none, tools are missing, or it has no FPU.
    """
    target = board(name)
    if missing := missing_tools():
        raise ExportError(f"not installed: {', '.join(missing)}", "board runs need them", PACKAGES)
    if not target.has_fpu:
        raise ExportError(f"{name} with --npu", "the CPU's part is in float, and the board has no FPU", "take --board mps3-an547")
    return target


def run_on_board(
    learner: NpuLearner,
    source: Mapping[str, Statistics],
    code: Path,
    images: np.ndarray,
    batch: int,
    name: str = "mps3-an547",
    train: str = "head",
) -> NpuBoardReport:
    """Statistics, a few updates and a prediction, in Python and on an emulated board.

    Args:
        learner: fresh; it is trained. source: see :meth:`.NpuLearner.source_statistics`.
        code: what :func:`.write_c` wrote of the two.
        images: int8 ``(N, ...)``; N a multiple of ``batch``, the samples per update.
        train: what the C was written for.

    Raises:
        ExportError: see :func:`require_board`; the code does not fit; or it does not come to the Python loop's records.
    """
    target = require_board(name)
    head = learner.head(_RATE, _MOMENTUM, batch, len(images) // batch)
    labels = np.arange(len(images)) % len(head.bias)
    with _recorded(learner) as recorders:
        learner.adapt_statistics(images, source)
        played = _taken(recorders)
        stepping = _stepping(learner, train, len(images) // batch)
        for k in range(0, len(images), batch):
            _step(stepping, head, images[k : k + batch], labels[k : k + batch])
            played += _taken(recorders, None if isinstance(stepping, NpuLearner) else stepping.order)
        logits = head.logits(learner.features(images[:1]))
        played += _taken(recorders)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(code, work / "c")
        (work / "npu_tape.h").write_text(_header(recorders, len(images), batch))
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


def _stepping(learner: NpuLearner, train: str, steps: int) -> NpuLearner | ZerothOrder | ContextForwardForward:
    if train == "zeroth-order":
        return ZerothOrder(learner, _RATE, _SPREAD, steps, _SEED)
    return ContextForwardForward(learner, _RATE, steps, _SPREAD, _SHARPNESS, _SEED) if train == "forward-forward" else learner


def _step(learner: NpuLearner | ZerothOrder | ContextForwardForward, head: Head, images: np.ndarray, labels: np.ndarray) -> None:
    if not isinstance(learner, NpuLearner) or isinstance(learner, NpuTrainer):
        learner.step(head, images, labels)
    else:
        head.step(learner.features(images), labels)


def _bytes(memory: Memory, image: int, slot: Slot) -> bytes:
    return memory.arena[image, slot.offset : slot.offset + slot.size].numpy().tobytes()


def _header(recorders: list[_Recorder], images: int, batch: int) -> str:
    def slot(at: Slot) -> str:
        return f"{{{at.offset}, {at.size}}}"

    lists = [f"static const tape_slot tape_outputs{k}[] = {{{', '.join(map(slot, r.left))}}};" for k, r in enumerate(recorders)]
    halves = [f"{{{slot(r.given)}, {len(r.left)}, tape_outputs{k}}}" for k, r in enumerate(recorders)]
    return "\n".join(
        [
            f"#define TAPE_IMAGES {images}",
            f"#define TAPE_BATCH {batch}",
            f"#define TAPE_RATE {_RATE}f",
            f"#define TAPE_MOMENTUM {_MOMENTUM}f",
            f"#define TAPE_SPREAD {_SPREAD}f",
            f"#define TAPE_SHARPNESS {_SHARPNESS}f",
            f"#define TAPE_SEED {_SEED}u",
            "typedef struct {\n    uint32_t offset, size;\n} tape_slot;",
            "typedef struct {\n    tape_slot input;\n    int count;\n    const tape_slot *outputs;\n} tape_half;",
            *lists,
            f"static const tape_half tape_halves[] = {{{', '.join(halves)}}};",
            "",
        ]
    )


def _text(path: str) -> int:
    return int(run_tool([SIZE, path], "reading sizes").splitlines()[1].split()[0])
