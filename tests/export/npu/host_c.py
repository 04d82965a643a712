"""The exported C on the host, with the simulator behind ``lfwd_npu_invoke``."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.npu.binary import CONSTANTS
from lightning_fwd_export.npu.learn import ContextForwardForward, Head, NpuLearner, NpuTrainer, ZerothOrder
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.simulator.memory import Memory
from lightning_fwd_export.npu.split import RECORDS

BATCH, STEPS = 8, 4
INVOKE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint8), ctypes.POINTER(ctypes.c_uint8), ctypes.c_int)
SANITIZERS = "-fPIC -shared -O1 -fsanitize=undefined -fno-sanitize-recover=all".split()


class HostC:
    """The exported C on the host. Its NPU is the simulator, which finds the arena as the C and the run before have left it."""

    def __init__(self, npu: NpuLearner, folder: Path, work: Path):
        library, sources = work / "lfwd_npu.so", [*folder.glob("lfwd_npu_*.c"), Path(__file__).with_name("host_invoke.c")]
        sources = [str(source) for source in sources if source.name != "lfwd_npu_ethosu.c"]
        subprocess.run([compiler("gcc"), *flags(folder), *SANITIZERS, f"-I{folder}", *sources, "-o", str(library), "-lm"], check=True)
        self._c, self._npu, self._binary = ctypes.CDLL(str(library)), npu, npu.split.binary
        self._c.lfwd_train_begin.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_int, ctypes.c_int]
        self._c.host_begin.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_uint32]
        self._table = bytearray(npu.split.table)
        regions = {CONSTANTS: self._binary.constants, RECORDS: self._table}
        programs = [npu.simulator, npu.second_half] if isinstance(npu, NpuTrainer) else [npu.simulator]
        self._halves = [Simulator(program.binary, regions) for program in programs]
        self._invoke = INVOKE(self._run)
        self._c.host_use(self._invoke)

    def _run(self, arena, table, half: int) -> int:
        here, simulator = np.ctypeslib.as_array(arena, (self._binary.arena,)).view(np.int8), self._halves[half]
        self._table[:] = ctypes.string_at(table, len(self._table))
        memory = Memory(simulator.regions, self._binary.arena, 1)
        memory.arena[0, : self._binary.arena] = torch.from_numpy(here)
        simulator.run(memory)
        here[:] = memory.arena[0, : self._binary.arena].numpy()
        return 0

    def align(self, images: np.ndarray) -> None:
        images = np.ascontiguousarray(images)
        assert self._c.host_align(images.ctypes.data_as(ctypes.c_void_p), len(images)) == 0

    def train(self, lr: float, momentum: float, images: np.ndarray, labels: np.ndarray) -> None:
        self._c.lfwd_train_begin(lr, momentum, BATCH, STEPS)
        self._c.host_begin(lr, 0.1, 1)
        self.steps(images, labels)

    def steps(self, images: np.ndarray, labels: np.ndarray) -> None:
        for image, label in zip(images, labels, strict=True):
            assert self._c.lfwd_train_step(np.ascontiguousarray(image).ctypes.data_as(ctypes.c_void_p), int(label)) == 0

    def guard_begin(self, images: np.ndarray, labels: np.ndarray) -> int:
        self._held = np.ascontiguousarray(images), labels.astype(np.uint8)  # the C reads them again at the end
        return self._c.host_guard_begin(*(a.ctypes.data_as(ctypes.c_void_p) for a in self._held), len(images))

    def guard_end(self) -> tuple[bool, float, float, int, int] | None:
        """Whether it was kept, loss before and after, right answers lost and won."""
        losses, counts = (ctypes.c_float * 2)(), (ctypes.c_int * 3)()
        if self._c.host_guard_end(losses, counts):
            return None
        return bool(counts[0]), *losses, *counts[1:]

    def state(self, head: Head) -> tuple[bytes, np.ndarray, np.ndarray]:
        """Table of records, weight and bias of the head."""
        table, weight, bias = np.zeros(len(self._table), np.uint8), np.zeros_like(head.weight), np.zeros_like(head.bias)
        self._c.host_state(*(a.ctypes.data_as(ctypes.c_void_p) for a in (table, weight, bias)))
        return table.tobytes(), weight, bias

    def hostile(self, images: np.ndarray) -> int:
        """A bit for every call that was not refused, or that changed something."""
        return self._c.host_hostile(np.ascontiguousarray(images).ctypes.data_as(ctypes.c_void_p))

    def goodness(self, image: np.ndarray, classes: int) -> np.ndarray:
        found, image = np.zeros(classes, np.float32), np.ascontiguousarray(image)
        self._c.host_goodness(image.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p))
        return found

    def predict(self, image: np.ndarray, classes: int) -> np.ndarray:
        logits, image = np.zeros(classes, np.float32), np.ascontiguousarray(image)
        assert self._c.lfwd_predict(image.ctypes.data_as(ctypes.c_void_p), logits.ctypes.data_as(ctypes.c_void_p)) == 0
        return logits


def flags(folder: Path) -> list[str]:
    """The compiler flags of the Makefile that the folder holds."""
    (line,) = [line for line in (folder / "Makefile").read_text().splitlines() if line.startswith("CFLAGS")]
    return [flag for flag in line.split()[2:] if flag.startswith("-")]


def stepping(npu: NpuLearner, train: str, rate: float) -> Callable[[Head, np.ndarray, np.ndarray], None]:
    """One batch in Python, of the rule that the C was written for."""
    if train == "zeroth-order":
        return ZerothOrder(npu, rate, 0.1, STEPS).step
    if train == "forward-forward":
        return ContextForwardForward(npu, rate, STEPS, 0.1, 2.0).step
    return npu.step if isinstance(npu, NpuTrainer) else lambda head, images, labels: head.step(npu.features(images), labels)
