"""From a .pte to a folder of readable C99 that any embedded toolchain builds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lightning_fwd.plain_files import require_file

from .c_code.anomaly import ANOMALY
from .c_code.drift import DRIFT
from .c_code.front_end import FRONT_END, INTEGER_FRONT_END
from .c_code.stages import INTEGER, RECONSTRUCTS, Stage
from .c_code.writer import Written, write_c
from .errors import ExportError, NoKernel
from .folder import clear_code
from .foreign import as_export_errors
from .pte import Program, read_program

CSRC = Path(__file__).parent / "csrc"
FIRMWARE = Path(__file__).parent / "firmware"
_TEMPLATES = Path(__file__).parent / "templates"
PREFIX = "lfwd_"
_MEND = "give a step.pte that this exporter wrote, or export it again"
_LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */\n"


@as_export_errors()
def pte_to_c(program: bytes | Path, out_dir: str | Path, trust_unsealed: bool = False, prefix: str = PREFIX) -> Program:
    """Generate C for every method of a program.

    Args:
        program: a .pte, as bytes or path.
        out_dir: folder to write; made if missing. Gets ``lfwd_model.{h,c}``, ``lfwd_constants.h``, the kernel library under
            ``kernels/``, a Makefile and a CMakeLists.txt.
        trust_unsealed: accept a .pte that this exporter did not write (its structure is checked all the same).
        prefix: as of :func:`write_sources`.

    Returns:
        What the program holds.

    Raises:
        ExportError: the file is damaged, foreign or uses an operator without a kernel. Nothing is written then.
    """
    name = "a program"
    if not isinstance(program, bytes):
        path = require_file(program, "the program", _MEND, ExportError)
        program, name = path.read_bytes(), path.name
    try:
        checked, written = translate(program, name, trust_unsealed)
    except NoKernel:
        raise
    except ExportError as error:
        raise ExportError(f"{name}: {error.what}", error.why, error.mend or _MEND) from error
    write_sources(written.files, out_dir, prefix)
    return checked


def translate(
    program: bytes, name: str = "a program", trust_unsealed: bool = False, stages: Sequence[Stage] = (), defaults: Sequence[str] = ()
) -> tuple[Program, Written]:
    """What a program holds and the C made from it; nothing is written to disk. Arguments and errors as for :func:`pte_to_c`.

    Args:
        stages, defaults: as of :func:`~.c_code.writer.write_c`.
    """
    checked = read_program(program, trust_unsealed)
    return checked, write_c(checked, name, stages, defaults)


def write_sources(files: dict[str, str], out_dir: str | Path, prefix: str = PREFIX) -> None:
    """The generated files, the kernel library, what keeps the state over a reset, and the build files, into a folder.

    Args:
        prefix: of every name: functions, types, macros (in capitals), files and the library, so that two programs fit into one firmware.

    Raises:
        ExportError: the prefix is none of C's names.
    """
    require_prefix(prefix)
    out = Path(out_dir)
    kernels = out / "kernels"
    clear_code(out)
    kernels.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (out / _name(file, prefix)).write_text(_named(_LICENCE + text, prefix))
    header = files.get("lfwd_model.h", "")
    needed = [
        stem
        for stem, sign in (("lfwd_store", "lfwd_state["), ("lfwd_samples", "lfwd_stages["), ("lfwd_adapt", "lfwd_stages["))
        if sign in header
    ]
    tables = (("lfwd_mfcc", FRONT_END), ("lfwd_mfcc_integer", INTEGER_FRONT_END), ("lfwd_drift", DRIFT), ("lfwd_anomaly", ANOMALY))
    needed += [stem for stem, table in tables if table in files]
    kept = [FIRMWARE / f"{stem}{ending}" for stem in needed for ending in (".c", ".h")]
    if "lfwd_adapt" in needed:
        judge = "integer" if INTEGER in header else "reconstruction" if RECONSTRUCTS in header else "float"
        kept += [FIRMWARE / f"lfwd_judge_{name}.h" for name in ((judge,) if judge == "integer" else (judge, "sums"))]
    for source, folder in [*((s, out) for s in kept), *((s, kernels) for s in sorted(CSRC.glob("*.[ch]")))]:
        text = source.read_text()
        (folder / _name(source.name, prefix)).write_text(_named(text if "SPDX" in text[:80] else _LICENCE + text, prefix))
    for template in ("Makefile", "CMakeLists.txt"):
        (out / template).write_text(_named((_TEMPLATES / template).read_text(), prefix))


def require_prefix(prefix: str) -> None:
    """Refuse what cannot begin every name of a C library."""
    if not re.fullmatch(r"[a-z][a-z0-9]*_", prefix):
        raise ExportError(
            f"prefix {prefix!r}", "it begins every function, type, macro and file of the library", "small letters and digits, then _: kws_"
        )


def _named(text: str, prefix: str) -> str:
    """C, CMake or make with another prefix."""
    if prefix == PREFIX:
        return text
    text = re.sub(r"\blfwd_", prefix, text)
    text = re.sub(r"\bLFWD_", prefix.upper(), text)
    return re.sub(r"\b(lib)?lfwd\b(?!::)", lambda m: (m[1] or "") + prefix[:-1], text)


def _name(file: str, prefix: str) -> str:
    return prefix + file.removeprefix(PREFIX) if file.startswith(PREFIX) else file
