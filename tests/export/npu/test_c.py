"""The exported C with the simulator behind ``lfwd_npu_invoke``: the records and the head of the Python loop, bit for bit."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import BOARDS, missing_tools
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.npu.binary import CONSTANTS
from lightning_fwd_export.npu.board import run_on_board
from lightning_fwd_export.npu.learn import NpuLearner, NpuTrainer, ZerothOrder
from lightning_fwd_export.npu.learn.head import Head
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.simulator.memory import Memory
from lightning_fwd_export.npu.split import RECORDS
from lightning_fwd_export.npu.write_c import write_c

BATCH, STEPS = 8, 4
ARM = ("-mthumb", *BOARDS["mps3-an547"].flags)
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
        self._c.host_zeroth_order.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_uint32]
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
        assert self._c.host_align(images.ctypes.data_as(ctypes.c_void_p), len(images)) == 0

    def train(self, lr: float, momentum: float, images: np.ndarray, labels: np.ndarray) -> None:
        self._c.lfwd_train_begin(lr, momentum, BATCH, STEPS)
        self._c.host_zeroth_order(lr, 0.1, 1)
        for image, label in zip(images, labels, strict=True):
            assert self._c.lfwd_train_step(np.ascontiguousarray(image).ctypes.data_as(ctypes.c_void_p), int(label)) == 0

    def state(self, head: Head) -> tuple[bytes, np.ndarray, np.ndarray]:
        """Table of records, weight and bias of the head."""
        table, weight, bias = np.zeros(len(self._table), np.uint8), np.zeros_like(head.weight), np.zeros_like(head.bias)
        self._c.host_state(*(a.ctypes.data_as(ctypes.c_void_p) for a in (table, weight, bias)))
        return table.tobytes(), weight, bias

    def predict(self, image: np.ndarray, classes: int) -> np.ndarray:
        logits, image = np.zeros(classes, np.float32), np.ascontiguousarray(image)
        assert self._c.lfwd_predict(image.ctypes.data_as(ctypes.c_void_p), logits.ctypes.data_as(ctypes.c_void_p)) == 0
        return logits


@pytest.fixture(params=["head", "norms", "zeroth-order"])
def exported(request, tmp_path_factory):
    """The learner, its inputs, source statistics, the folder of its C, and whether it learns by zeroth order."""
    npu = request.getfixturevalue("trainer") if request.param == "norms" else request.getfixturevalue("learner")[0]
    folder, x = tmp_path_factory.mktemp("npu_c"), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    source = npu.source_statistics(x)
    write_c(npu, source, folder, request.param == "zeroth-order")
    return npu, npu.store(0.6 * x + 0.3), source, folder, request.param == "zeroth-order"


def flags(folder: Path) -> list[str]:
    """The compiler flags of the Makefile that the folder holds."""
    (line,) = [line for line in (folder / "Makefile").read_text().splitlines() if line.startswith("CFLAGS")]
    return [flag for flag in line.split()[2:] if flag.startswith("-")]


@pytest.mark.parametrize("rate", [0.05, 3.0])
def test_the_c_learns_the_records_and_the_head_of_the_python_loop(exported, tmp_path, rate):
    """Also at a rate at which scales fall to the quarter that they keep."""
    npu, images, source, folder, zeroth_order = exported
    c, compiled = HostC(npu, folder, tmp_path), bytes(npu.table)
    c.align(images)
    npu.adapt_statistics(images, source)
    head = npu.head(lr=rate, momentum=0.9, batch=BATCH, steps=STEPS)
    aligned, untrained, labels = bytes(npu.table), head.weight.copy(), np.random.default_rng(0).integers(0, head.bias.size, BATCH * STEPS)
    assert c.state(head)[0] == aligned != compiled

    c.train(rate, 0.9, images[: BATCH * STEPS], labels)
    stepping = ZerothOrder(npu, rate, 0.1, STEPS) if zeroth_order else npu
    for k in range(0, BATCH * STEPS, BATCH):
        batch = images[k : k + BATCH]
        if isinstance(stepping, NpuTrainer | ZerothOrder):
            stepping.step(head, batch, labels[k : k + BATCH])
        else:
            head.step(npu.features(batch), labels[k : k + BATCH])
    table, weight, bias = c.state(head)
    assert table == bytes(npu.table) and (table != aligned) == isinstance(stepping, NpuTrainer | ZerothOrder)
    assert weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
    assert not np.array_equal(weight, untrained)
    if isinstance(stepping, NpuTrainer):
        assert any((norm.scale == norm.least).any() for norm in npu.norms.values()) == (rate > 1)
        assert all((norm.scale >= norm.least).all() for norm in npu.norms.values())
    assert np.array_equal(c.predict(images[40], head.bias.size), head.logits(npu.features(images[40:41]))[0])


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_on_an_emulated_cortex_m55_it_learns_the_records_of_the_python_loop(exported):
    npu, images, source, folder, zeroth_order = exported
    report = run_on_board(npu, source, folder, images[: 2 * BATCH], BATCH, zeroth_order=zeroth_order)
    assert report.cpu == "Cortex-M55" and report.code_bytes > 1000
    assert 0 < report.predict_instructions < report.step_instructions
    assert report.update_instructions > 0 and report.align_instructions > 0


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_a_board_that_finds_other_records_says_so(exported):
    npu, images, source, folder, zeroth_order = exported
    model = folder / "lfwd_npu_model.c"
    lines = model.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("static const float mean0[]")) + 1
    first = lines[at].split(",")[0]
    lines[at] = lines[at].replace(first, " 9.0f", 1)
    model.write_text("\n".join(lines))
    with pytest.raises(ExportError, match="exit code 7"):
        run_on_board(npu, source, folder, images[: 2 * BATCH], BATCH, zeroth_order=zeroth_order)


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_it_builds_for_a_cortex_m55_with_the_example_for_arms_driver(exported, tmp_path):
    *_, folder, _ = exported
    declarations = tmp_path / "ethosu_driver.h"  # the functions that the example calls, as the driver's header declares them
    declarations.write_text(
        "#include <stddef.h>\n#include <stdint.h>\nstruct ethosu_driver *ethosu_reserve_driver(void);\n"
        "void ethosu_release_driver(struct ethosu_driver *drv);\n"
        "int ethosu_invoke_v3(struct ethosu_driver *drv, const void *custom_data_ptr, const int custom_data_size, uint64_t *const "
        "base_addr,\n"
        "                     const size_t *base_addr_size, const int num_base_addr, void *user_arg);\n"
    )
    for source in folder.glob("*.c"):
        arguments = [
            *ARM,
            *flags(folder),
            "-O2",
            f"-I{folder}",
            f"-I{tmp_path}",
            "-c",
            str(source),
            "-o",
            str(tmp_path / f"{source.stem}.o"),
        ]
        subprocess.run(["arm-none-eabi-gcc", *arguments], check=True)


@pytest.mark.skipif(shutil.which("cppcheck") is None, reason="cppcheck is not installed")
def test_a_static_checker_finds_nothing(exported):
    *_, folder, _ = exported
    checks = "--enable=warning,portability,performance --error-exitcode=1 --inline-suppr --quiet --suppress=missingIncludeSystem".split()
    found = subprocess.run(["cppcheck", *checks, f"-I{folder}", str(folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
