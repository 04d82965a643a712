"""Float kernels as boards run them (several registers loaded at once, or Helium) against plain C on drawn shapes; all kernels on all
cores."""

import subprocess

import pytest
from lightning_fwd_export.boards import BOARDS
from lightning_fwd_export.boards.build import SEMIHOSTED, board_flags, emulate, kernel_objects, link, write_link_script
from lightning_fwd_export.generate_c import CSRC

CORES = {
    "m0+": ["-mcpu=cortex-m0plus"],
    "m33": ["-mcpu=cortex-m33"],
    "m33 with FPU": ["-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
    "m4": list(BOARDS["mps2-an386"].flags),
    "m7": list(BOARDS["mps2-an500"].flags),
    "m55": list(BOARDS["mps3-an547"].flags),
}
CLEAN = "-fsyntax-only -std=c99 -Wall -Wextra -Werror -Wconversion -Wshadow -pedantic -fno-strict-aliasing -ffp-contract=fast".split()


def under_other_names(objects, work):
    """One object of plain kernels, whose functions are called plain_*."""
    whole = str(work / "plain.o")
    subprocess.run(["arm-none-eabi-ld", "-r", *objects, "-o", whole], check=True)
    subprocess.run(["arm-none-eabi-objcopy", "--prefix-symbols=plain_", whole], check=True)
    undefined = subprocess.run(["arm-none-eabi-nm", "-u", whole], check=True, capture_output=True, text=True).stdout.split()[1::2]
    back = [f"--redefine-sym={name}={name.removeprefix('plain_')}" for name in undefined]
    subprocess.run(["arm-none-eabi-objcopy", *back, whole], check=True)
    return whole


@pytest.mark.board
@pytest.mark.parametrize("board", ["mps2-an386", "mps3-an547", pytest.param("mps2-an500", marks=pytest.mark.slow)])
def test_fast_float_kernels_equal_plain_c(tmp_path, emulator, board):
    fast = kernel_objects(CSRC, board_flags(BOARDS[board]))
    plain = under_other_names(kernel_objects(CSRC, board_flags(BOARDS[board], ("-O2", "-DLFWD_PLAIN"))), tmp_path)
    source = __file__.replace("test_fast_float.py", "float_against_plain.c")
    (tmp_path / "main.c").write_text(f'#define SEED 1u\n#define SHAPES 200\n#include "{source}"\n')
    write_link_script(tmp_path, BOARDS[board])
    elf = link(tmp_path, CSRC, BOARDS[board], tmp_path / "main.c", [*fast, plain], SEMIHOSTED)
    emulate(tmp_path, elf, BOARDS[board], 120)  # raises with the exit code of the call that differs


@pytest.mark.parametrize("core", CORES)
def test_every_kernel_compiles_for_every_core_without_a_warning(tmp_path, emulator, core):
    files = [str(f) for f in sorted(CSRC.glob("*.c"))]
    subprocess.run(["arm-none-eabi-gcc", *CORES[core], "-mthumb", *CLEAN, *files], check=True, cwd=tmp_path)
