"""What ``--ckpt_path`` may name: a file of this machine, read as plain values and never as code."""

from __future__ import annotations

from pathlib import Path

from ..errors import LightningFwdError


def refuse_unsafe(path: str | Path | None, weights_only: bool | None) -> None:
    """Refuse, before anything is read, a checkpoint whose reading could execute what it holds.

    Lightning unpickles a remote checkpoint without limits unless told otherwise, and so runs whatever its writer put in.

    Args:
        path: the option ``--ckpt_path``.
        weights_only: the option ``--weights_only``; None where it was not given.

    Raises:
        LightningFwdError: the path is an address (``http://``, ``s3://``, ``file://``, a chain ``a::b``), or weights_only is false.
    """
    if weights_only is False:
        raise LightningFwdError(
            "--weights_only=false is not taken", "a checkpoint read so can execute any code that its writer put in", "leave the option out"
        )
    if path is not None and ("://" in str(path) or "::" in str(path)):
        raise LightningFwdError(
            f"--ckpt_path {path} is not a file of this machine",
            "checkpoints are not read from an address",
            "download the file first and give its path",
        )
