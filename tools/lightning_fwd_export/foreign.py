"""Where what torch, ExecuTorch, TOSA and their like raise becomes an error of the exporter, with what to try next; and what is asked of a
network at every door."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from lightning_fwd.errors import LightningFwdError

from .errors import ExportError

_THEIRS = ("executorch", "torchao", "torch", "tosa", "serializer", "ethosu")
_OURS = ("lightning_fwd_export", "lightning_fwd")


@contextmanager
def as_export_errors(mend: str = "write it in another way, or export in float if this was int8") -> Iterator[None]:
    """Also a decorator. Errors of this project pass, and so does what the machine says (no memory, no file); everything else is wrapped.

    Args:
        mend: what to do where the network does something that cannot be carried over.

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
        ours = "this is a defect worth reporting, with the network"
        theirs = f"the network does something that cannot be carried over: {mend}"
        why = f"raised at {line}"
        raise ExportError(
            f"{type(error).__name__} in {who or 'the model'} while exporting: {text}", why, ours if who in _OURS else theirs
        ) from error


def require_network(net: object, example: object) -> None:
    """Refuse at the door what is no network, or no tensor to run it on."""
    if not isinstance(net, nn.Module) or not isinstance(example, Tensor):
        raise ExportError(
            f"a network of type {type(net).__name__}, an example of type {type(example).__name__}",
            "an nn.Module is exported for the shape of one tensor (B, ...)",
            "give the network first and a tensor as it takes it second",
        )


def own_copy(net: nn.Module) -> nn.Module:
    """A copy in eval mode.

    Raises:
        ExportError: it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(net).eval()
    except Exception as error:
        raise ExportError(
            f"{type(net).__name__} cannot be copied",
            f"{type(error).__name__}: {error}",
            "keep what has no copy (generators, open files, locks, hooks over them) out of the network",
        ) from error


def _raised_by(frames: list[traceback.FrameSummary]) -> tuple[str, str]:
    """The package of the innermost frame that belongs to a known one, and where it is."""
    for frame in reversed(frames):
        parts = Path(frame.filename).parts
        for package in (*_OURS, *_THEIRS):
            if package in parts:
                return package, f"{'/'.join(parts[parts.index(package) :])}:{frame.lineno}"
    last = frames[-1]
    return "", f"{Path(last.filename).name}:{last.lineno}"
