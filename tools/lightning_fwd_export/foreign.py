"""The one place where what torch, ExecuTorch, TOSA and their like raise becomes an error of the exporter, with what to try next."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_fwd.errors import LightningFwdError

from .errors import ExportError

_THEIRS = ("executorch", "torchao", "torch", "tosa", "serializer", "ethosu")
_OURS = ("lightning_fwd_export", "lightning_fwd")


@contextmanager
def as_export_errors() -> Iterator[None]:
    """Also a decorator. Errors of this project pass, and so does what the machine says (no memory, no file); everything else is wrapped.

    Raises:
        ExportError: says what was raised and by whom; the original is its cause.
    """
    try:
        yield
    except (LightningFwdError, MemoryError, OSError):
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        who, line = _raised_by(frames)
        text = (str(error).strip().splitlines() or [""])[0][:300]
        mend = (
            "this is a defect worth reporting, with the network"
            if who in _OURS
            else "the network does something that cannot be carried over: write it in another way, or export in float if this was int8"
        )
        raise ExportError(f"{type(error).__name__} in {who or 'the model'} while exporting: {text}", f"raised at {line}", mend) from error


def _raised_by(frames: list[traceback.FrameSummary]) -> tuple[str, str]:
    """The package of the innermost frame that belongs to a known one, and where it is."""
    for frame in reversed(frames):
        parts = Path(frame.filename).parts
        for package in (*_OURS, *_THEIRS):
            if package in parts:
                return package, f"{'/'.join(parts[parts.index(package) :])}:{frame.lineno}"
    last = frames[-1]
    return "", f"{Path(last.filename).name}:{last.lineno}"
