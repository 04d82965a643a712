"""The folder of an export: what it gets, and what an export before left there and must go."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_fwd.device_weights.table import TABLE

from .errors import ExportError

REPORT = "report.json"
_FILES = ("step.pte", "inference.pte", "library.pte", "adaptation.json", REPORT, TABLE)
_OURS = "/* SPDX-License-Identifier: Apache-2.0"


def require_folder(out: Path) -> None:
    """Refuse a place that cannot be written, before the minutes of work and not after."""
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ExportError(
            f"cannot write to {out}", f"{existing} is {'not writable' if existing.is_dir() else 'a file'}", "choose another folder"
        )


def clear_export(out: Path) -> None:
    """Take away what an export before left in a folder: program, reports, weights table, C under whatever prefix.

    Called when the new one is known to be good; what is not an export's stays.
    """
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    clear_code(out / "c")
    for name in ("samples.h", "example.elf"):
        (out / "example" / name).unlink(missing_ok=True)


def clear_code(code: Path) -> None:
    """Take away generated C, its kernels, and what was compiled of them; a user's own files stay."""
    for header in sorted(code.glob("*_model.h")):
        prefix = header.name.removesuffix("model.h")
        ours = [*code.glob(f"{prefix}*.[ch]"), *code.glob(f"{prefix[:-1]}.h")]
        for source in [path for path in ours if path.read_text(errors="replace").startswith(_OURS)]:
            source.with_suffix(".o").unlink(missing_ok=True)
            source.unlink()
        (code / f"lib{prefix[:-1]}.a").unlink(missing_ok=True)
        cmake = code / "CMakeLists.txt"
        if cmake.exists() and f"project({prefix}model " in cmake.read_text(errors="replace"):
            cmake.unlink()
    for old in (code / "kernels").glob("*.[cho]"):
        old.unlink()


def write_report(report: Any, out: Path) -> None:
    """The report object as ``report.json``, field by field."""
    (out / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n")
