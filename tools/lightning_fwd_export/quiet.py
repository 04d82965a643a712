"""Keeps out of the output what torch, torchao and ExecuTorch print for their own developers. What is not named here passes."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Mutation on a buffer in the model is detected",  # their initial values do reach the program: check.py holds it against PyTorch
)
_LOGGED = {
    "torchao": "Failed to load",
    "torch.utils._pytree": "<enum '",
    "executorch.exir.pass_manager": "PassManager is deprecated",
    "executorch.backends.cortex_m.passes.activation_fusion_pass": "Cannot fuse activation",  # of the float part
}
_PRINTED = b"[cpuinfo_utils.cpp"


def quiet_imports() -> None:
    """Drop these log records from now on: whoever imports a module of this package directly meets them too."""
    for name, start in _LOGGED.items():
        logging.getLogger(name).addFilter(_Without(start))


@contextmanager
def quiet() -> Iterator[None]:
    """Filter warnings and log records while third parties are imported or run."""
    loggers = [(logging.getLogger(name), _Without(start)) for name, start in _LOGGED.items()]
    for logger, drop in loggers:
        logger.addFilter(drop)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, drop in loggers:
            logger.removeFilter(drop)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Filter what native code writes to file descriptor 2; it comes out at the end, so only for short calls."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not line.startswith(_PRINTED)))


@contextmanager
def captured_stderr(said: list[str]) -> Iterator[None]:
    """Lines that native code writes, to file descriptor 2 or by way of Python, go into a list; they come out where nothing was raised."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, io.StringIO() as printed:
        kept, raised = os.dup(2), True
        os.dup2(held.fileno(), 2)
        try:
            with redirect_stderr(printed):
                yield
            raised = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            text = held.read().decode(errors="replace") + printed.getvalue()
            said += text.splitlines(keepends=True)
            if not raised and text:
                sys.stderr.write(text)


class _Without(logging.Filter):
    def __init__(self, start: str):
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)
