"""Compile and link for a board, read what the linker made of it, run it on the emulator."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import ExportError
from ..host.runtime import cache_folder, run_tool
from .board import SHIFT, Board

_HERE = Path(__file__).parent
GCC, SIZE, NM, QEMU = "arm-none-eabi-gcc", "arm-none-eabi-size", "arm-none-eabi-nm", "qemu-system-arm"
_WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion"]
_SEMANTICS = ["-fno-math-errno", "-fno-strict-aliasing", "-ffp-contract=fast"]  # as templates/Makefile, which says why


def board_flags(target: Board, optimise: Sequence[str] = ("-O2",)) -> list[str]:
    """What every file of a model is compiled with for a board: its Makefile's flags, and the board's."""
    return [*target.flags, "-mthumb", *optimise, *_WARNINGS, *_SEMANTICS, "-ffunction-sections", "-fdata-sections"]


def write_link_script(work: Path, target: Board) -> None:
    """``link.ld`` with the board's memories, into a folder."""
    script = (_HERE / "link.ld").read_text()
    for name, (origin, length) in (("FLASH", target.flash), ("RAM", target.ram)):
        script = script.replace(f"{name}_ORIGIN", hex(origin)).replace(f"{name}_LENGTH", hex(length))
    (work / "link.ld").write_text(script)


def compile_model(work: Path, c_dir: Path, target: Board, optimise: Sequence[str]) -> list[str]:
    """Object files of generated C and its kernels; the link script lies beside them."""
    flags = board_flags(target, optimise)
    write_link_script(work, target)
    model = compile_object(c_dir / "lfwd_model.c", work, [*flags, f"-I{c_dir}", f"-I{c_dir / 'kernels'}"])
    return [model, *kernel_objects(c_dir / "kernels", flags)]


def kernel_objects(kernels: Path, flags: list[str]) -> list[str]:
    """The kernel library for these flags: compiled once per source state, kept in the user's cache folder."""
    sources = sorted(kernels.glob("*.[ch]"))
    version = run_tool([GCC, "-dumpfullversion"], "asking the compiler for its version")
    digest = hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in sources) + " ".join([version, *flags]).encode())
    folder = cache_folder() / f"board-kernels-{digest.hexdigest()[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
            objects = Path(work) / "objects"
            objects.mkdir()
            for source in sources:
                if source.suffix == ".c":
                    compile_object(source, objects, flags)
            with contextlib.suppress(OSError):  # another process was first
                os.replace(objects, folder)
    return [str(p) for p in sorted(folder.glob("*.o"))]


def compile_object(source: Path, folder: Path, flags: list[str]) -> str:
    target = str(folder / f"{source.stem}.o")
    run_tool([GCC, *flags, "-c", str(source), "-o", target], f"compiling {source.name}")
    return target


RUNNER, FOOTPRINT, STARTUP = _HERE / "runner.c", _HERE / "footprint.c", _HERE / "startup.c"
SEMIHOSTED = ["--specs=rdimon.specs", "-lc", "-lrdimon", "-lm"]
BARE = ["--specs=nano.specs", "--specs=nosys.specs", "-lc", "-lnosys", "-lm"]


def link(work: Path, include: Path, target: Board, main: Path, objects: list[str], libraries: list[str]) -> Path:
    """A firmware of ``main`` and the objects, with the link script and the generated headers of ``work``."""
    elf = work / f"{main.stem}.elf"
    sources = [str(STARTUP), str(main)]
    includes = [f"-I{folder}" for folder in (work, _HERE, include)]
    flags = [*target.flags, "-mthumb", "-O2", "-std=gnu99", "-Wall", *target.defines, "-ffunction-sections", "-nostartfiles"]
    command = [
        GCC,
        *flags,
        *includes,
        *sources,
        *objects,
        "-Wl,--gc-sections",
        "-Wl,--no-warn-rwx-segments",
        "-T",
        str(work / "link.ld"),
        *libraries,
        "-o",
        str(elf),
    ]
    try:
        run_tool(command, f"linking for {target.name}")
    except ExportError as error:
        over = {region: int(n) for region, n in re.findall(r"region `(\w+)' overflowed by (\d+) bytes", str(error))}
        if not over:
            raise
        raise ExportError(
            f"the program does not fit {target.name}",
            "; ".join(f"{name} overflows by {n:,} B" for name, n in over.items())
            + f": it has {target.flash[1]:,} B of Flash and {target.ram[1]:,} B of RAM, for the program and what measures it",
            "take a board with more, export in int8, or train fewer layers; without --run the C is written for any board",
        ) from error
    return elf


def linked_sizes(elf: Path) -> tuple[int, int]:
    text, data, bss = map(int, run_tool([SIZE, str(elf)], "reading sizes").splitlines()[1].split()[:3])
    return text + data, data + bss


def linked_constants(elf: Path) -> int:
    """Bytes of the generated ``constant_N`` arrays that the linker kept."""
    symbols = [line.split() for line in run_tool([NM, "-S", str(elf)], "reading symbols").splitlines()]
    return sum(int(s[1], 16) for s in symbols if len(s) == 4 and s[3].startswith("constant_"))


def emulate(work: Path, elf: Path, target: Board, timeout: float) -> str:
    """Run a firmware to its end; what it printed.

    Raises:
        ExportError: it faulted, ended in another exit code than 0, or took longer than ``timeout`` seconds.
    """
    command = [
        QEMU,
        "-M",
        target.name,
        "-nographic",
        "-monitor",
        "none",
        "-serial",
        "none",
        "-icount",
        f"shift={SHIFT}",
        "-semihosting-config",
        "enable=on,target=native",
        "-kernel",
        str(elf),
    ]
    try:
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{target.name} did not finish within {timeout:.0f} s") from error
    reasons = {99: "a processor fault", 3: "too little input", 2: "no file access"}
    if done.returncode:
        why = reasons.get(done.returncode, f"exit code {done.returncode}")
        raise ExportError(f"the run on {target.name} ended in {why}: {done.stderr[-500:]}")
    return done.stdout
