"""From a .pte to a folder of readable C99 that any embedded toolchain builds."""

from __future__ import annotations

import shutil
from pathlib import Path

from .c_code.writer import Written, write_c
from .errors import ExportError
from .pte import Program, read_program

CSRC = Path(__file__).parent / "csrc"
_TEMPLATES = Path(__file__).parent / "templates"


def pte_to_c(program: bytes | Path, out_dir: str | Path, trust_unsealed: bool = False) -> Program:
    """Generate C for every method of a program.

    Args:
        program: a .pte, as bytes or path.
        out_dir: folder to write; made if missing. Gets ``lfwd_model.{h,c}``, ``lfwd_constants.h``, the kernel library under
            ``kernels/``, a Makefile and a CMakeLists.txt.
        trust_unsealed: accept a .pte that this exporter did not write (its structure is checked all the same).

    Returns:
        What the program holds.

    Raises:
        ExportError: the file is damaged, foreign or uses an operator without a kernel. Nothing is written then.
    """
    name = "a program"
    if not isinstance(program, bytes):
        path = Path(program)
        if not path.is_file():
            raise ExportError(f"{path}: no such file")
        program, name = path.read_bytes(), path.name
    checked, written = translate(program, name, trust_unsealed)
    write_sources(written.files, out_dir)
    return checked


def translate(program: bytes, name: str = "a program", trust_unsealed: bool = False) -> tuple[Program, Written]:
    """What a program holds and the C made from it; nothing is written to disk. Arguments and errors as for :func:`pte_to_c`."""
    checked = read_program(program, trust_unsealed)
    return checked, write_c(checked, name)


def write_sources(files: dict[str, str], out_dir: str | Path) -> None:
    """The generated files, the kernel library and the build files, into a folder."""
    out = Path(out_dir)
    kernels = out / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (out / file).write_text(text)
    for source in sorted(CSRC.glob("*.[ch]")):
        shutil.copyfile(source, kernels / source.name)
    for template in ("Makefile", "CMakeLists.txt"):
        shutil.copyfile(_TEMPLATES / template, out / template)
