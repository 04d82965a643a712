"""The DSP and Helium bodies of the int8 and integer kernels on the emulated boards: the bits of plain C on hundreds of drawn shapes."""

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning_fwd_export.boards import BOARDS
from lightning_fwd_export.boards.build import SEMIHOSTED, emulate, link
from lightning_fwd_export.generate_c import CSRC

KERNELS = "conv2d_s8 conv2d_s8_dsp conv2d_s8_mve depthwise_s8 depthwise_s8_dsp depthwise_s8_mve linear_s8 pool_s8 elementwise_s8".split()
KERNELS += "integer_columns integer_back integer_body integer_body_dsp integer_body_mve integer_layers integer_conv_dsp".split()
FUNCTIONS = (
    "conv2d_s8 depthwise_conv2d_s8 linear_s8 avg_pool2d_s8 max_pool2d_s8 add_s8 mul_s8 maximum_s8 minimum_s8 clamp_s8 lookup_s8 pad_s8"
)
INTEGER = (
    "outer_update outer_velocity conv_update conv_velocity linear_back linear_error conv_back products write_row outer_row back_rows "
    "back_places widen accelerate_row linear conv conv_onto conv_pairs"
)
STRICT = "-O2 -std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -ffunction-sections -fno-strict-aliasing".split()
CORES = {
    "m0+": ["-mcpu=cortex-m0plus"], "m33": ["-mcpu=cortex-m33"], "m4": ["-mcpu=cortex-m4"], "m7": ["-mcpu=cortex-m7"],
    "m55": ["-mcpu=cortex-m55"],
}  # fmt: skip


def compiled(work, name, flags):
    objects = [str(work / f"{name}_{k}.o") for k in KERNELS]
    for kernel, target in zip(KERNELS, objects, strict=True):
        subprocess.run(["arm-none-eabi-gcc", *flags, *STRICT, "-mthumb", "-c", str(CSRC / f"{kernel}.c"), "-o", target], check=True)
    return objects


@pytest.fixture(scope="module")
def kernels(tmp_path_factory, emulator):
    """``kernels(board)``: folder and objects, the plain kernels under other names beside the fast ones."""
    cache = {}

    def get(board):
        if board not in cache:
            work = tmp_path_factory.mktemp("kernels")
            names = [
                *FUNCTIONS.split(),
                "quantize_s8",
                "dequantize_s8",
                "softmax_s8",
                "int_conv_error",
                *(f"int_{f}" for f in INTEGER.split()),
            ]
            renamed = ["-DLFWD_PLAIN", *(f"-Dlfwd_{f}=plain_lfwd_{f}" for f in names)]
            flags = list(BOARDS[board].flags)
            cache[board] = work, compiled(work, "fast", flags) + compiled(work, "plain", [*flags, *renamed])
            script = (CSRC.parent / "boards" / "link.ld").read_text()
            for region, (origin, length) in (("FLASH", BOARDS[board].flash), ("RAM", BOARDS[board].ram)):
                script = script.replace(f"{region}_ORIGIN", hex(origin)).replace(f"{region}_LENGTH", hex(length))
            (work / "link.ld").write_text(script)
        return cache[board]

    return get


@pytest.mark.board
@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547", pytest.param("mps2-an500", marks=pytest.mark.slow)])
@pytest.mark.parametrize("against", ["fast_against_plain.c", "integer_against_plain.c"])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31))
def test_fast_bodies_equal_plain_c_on_drawn_shapes(kernels, tmp_path, board, against, seed):
    work, objects = kernels(board)
    main = tmp_path / "main.c"
    source = __file__.replace("test_fast_kernels.py", against)
    main.write_text(f'#define SEED {seed}u\n#define SHAPES 150\n#include "{source}"\n')
    elf = link(work, CSRC, BOARDS[board], main, objects, SEMIHOSTED)
    emulate(work, elf, BOARDS[board], 120)  # raises with the exit code of the kernel that differs


@pytest.mark.parametrize("core", CORES)
def test_every_core_compiles_them_without_a_warning(tmp_path, emulator, core):
    compiled(tmp_path, core, CORES[core])
