"""How a command ends that is stopped: in one line, with the status that shells know, and without leaving worker processes behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_RESUMED = {"compare": "run again to resume", "search": "run again to resume", "fit": "run again to resume, with --ckpt_path CHECKPOINT"}


class Terminated(BaseException):
    """The process was told to end (SIGTERM): what it began is cleaned up, its workers are ended."""


@contextmanager
def stoppable(command: str) -> Iterator[None]:
    """SIGTERM ends a command by way of :class:`Terminated`; Lightning's own commands keep Lightning's handler."""
    ours = command in ("compare", "search", "adapt") and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if ours else None
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated


def stopped(error: BaseException, command: str) -> tuple[int, str] | None:
    """Exit status and the line to say, where a command was stopped by Ctrl-C or SIGTERM; None where it ended otherwise.

    Lightning turns a Ctrl-C inside of a fit into an exit with status 1; a fit that a comparison runs does so too.
    """
    by_lightning = isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    if not (by_lightning or isinstance(error, KeyboardInterrupt | Terminated)):
        return None
    how, status = ("terminated", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
    return status, ": ".join([how, *filter(None, [_RESUMED.get(command)])])
