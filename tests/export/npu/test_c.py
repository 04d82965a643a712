"""The exported C with the simulator behind ``lfwd_npu_invoke``: the records and the head of the Python loop, bit for bit."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fwd_export.boards import BOARDS, missing_tools
from lightning_fwd_export.host.runtime import compiler
from lightning_fwd_export.npu.binary import CONSTANTS
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.split import RECORDS
from lightning_fwd_export.npu.write_c import write_c

BATCH, STEPS = 8, 4
ARM = ("-mthumb", *BOARDS["mps3-an547"].flags)
INVOKE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint8), ctypes.POINTER(ctypes.c_uint8))


@pytest.fixture
def exported(learner, tmp_path_factory):
    """The learner, its inputs, source statistics, and the folder of its C."""
    npu, _ = learner
    folder, x = tmp_path_factory.mktemp("npu_c"), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    source = npu.source_statistics(x)
    write_c(npu, source, folder)
    return npu, npu.store(0.6 * x + 0.3), source, folder


def flags(folder: Path) -> list[str]:
    """The compiler flags of the Makefile that the folder holds."""
    (line,) = [line for line in (folder / "Makefile").read_text().splitlines() if line.startswith("CFLAGS")]
    return [flag for flag in line.split()[2:] if flag.startswith("-")]


def test_the_c_learns_the_records_and_the_head_of_the_python_loop(exported, tmp_path):
    npu, images, source, folder = exported
    library, sources = tmp_path / "lfwd_npu.so", [folder / f"lfwd_npu_{part}.c" for part in ("model", "records", "statistics", "head")]
    sanitizers = "-fPIC -shared -O1 -fsanitize=undefined -fno-sanitize-recover=all".split()
    sources.append(Path(__file__).with_name("host_invoke.c"))
    subprocess.run([compiler("gcc"), *flags(folder), *sanitizers, f"-I{folder}", *map(str, sources), "-o", str(library), "-lm"], check=True)
    c, binary = ctypes.CDLL(str(library)), npu.split.binary
    c.lfwd_train_begin.argtypes = [ctypes.c_float, ctypes.c_float, ctypes.c_int, ctypes.c_int]

    @INVOKE
    def run_on_the_simulator(arena, table):
        (image,) = binary.inputs
        memory = np.ctypeslib.as_array(arena, (binary.arena,)).view(np.int8)
        regions = {CONSTANTS: binary.constants, RECORDS: ctypes.string_at(table, len(npu.split.table))}
        outputs = Simulator(binary, regions)(memory[image.offset : image.offset + image.size][None].copy())
        for slot, values in zip(binary.outputs, outputs, strict=True):
            memory[slot.offset : slot.offset + slot.size] = values[0]
        return 0

    c.host_use(run_on_the_simulator)
    assert c.host_align(images.ctypes.data_as(ctypes.c_void_p), len(images)) == 0
    npu.adapt_statistics(images, source)
    head = npu.head(lr=0.05, momentum=0.9, batch=BATCH, steps=STEPS)
    labels = np.random.default_rng(0).integers(0, head.bias.size, BATCH * STEPS)
    c.lfwd_train_begin(0.05, 0.9, BATCH, STEPS)
    for image, label in zip(images, labels, strict=False):
        assert c.lfwd_train_step(np.ascontiguousarray(image).ctypes.data_as(ctypes.c_void_p), int(label)) == 0
    features = npu.features(images[: BATCH * STEPS])
    for k in range(0, BATCH * STEPS, BATCH):
        head.step(features[k : k + BATCH], labels[k : k + BATCH])

    table, weight, bias = np.zeros(len(npu.table), np.uint8), np.zeros_like(head.weight), np.zeros_like(head.bias)
    c.host_state(*(a.ctypes.data_as(ctypes.c_void_p) for a in (table, weight, bias)))
    assert table.tobytes() == bytes(npu.table) and bytes(npu.table) != npu.split.table
    assert weight.tobytes() == head.weight.tobytes() and bias.tobytes() == head.bias.tobytes()
    assert not np.array_equal(weight, npu.head(0.05, 0.9, BATCH, STEPS).weight)

    logits = np.zeros_like(bias)
    assert c.lfwd_predict(images[40].ctypes.data_as(ctypes.c_void_p), logits.ctypes.data_as(ctypes.c_void_p)) == 0
    assert np.array_equal(logits, head.logits(npu.features(images[40:41]))[0])


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_it_builds_for_a_cortex_m55_with_the_example_for_arms_driver(exported, tmp_path):
    *_, folder = exported
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
    *_, folder = exported
    checks = "--enable=warning,portability,performance --error-exitcode=1 --inline-suppr --quiet --suppress=missingIncludeSystem".split()
    found = subprocess.run(["cppcheck", *checks, f"-I{folder}", str(folder)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
