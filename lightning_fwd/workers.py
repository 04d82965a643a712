"""Worker processes that end with the process that asked them, however it ends, and that a Ctrl-C of the terminal does not reach."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_FOLLOWED: set[int] = set()  #: in a worker: whom it ends with


class Watched:
    """A function for joblib's own worker processes on this machine; elsewhere (a cluster's workers, this very process) it is the function
    alone.

    A worker would finish its task otherwise, and write where a run that was started again writes too.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function, self.__name__ = function, getattr(function, "__name__", type(function).__name__)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        # In this order: a worker follows before it imports what the function needs, which takes seconds.
        return _watched, (_Parent(os.getpid()), self.function)


class _Parent:
    def __init__(self, process: int):
        self.process = process

    def __reduce__(self) -> tuple[Any, ...]:
        return _follow, (self.process,)


def _watched(_: None, function: Callable[..., Any]) -> Watched:
    return Watched(function)


def _follow(parent: int) -> None:
    """In a worker of joblib's: end when the parent has."""
    if multiprocessing.current_process().name.startswith("LokyProcess") and parent not in _FOLLOWED:
        _FOLLOWED.add(parent)
        threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # a daemon thread cannot end its process in a gentler way


@contextmanager
def starting_workers() -> Iterator[None]:
    """Around the call that starts worker processes: they inherit that SIGINT is ignored, so that a Ctrl-C is told once, by this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # blocking it would not do: joblib's tracker of resources unblocks it
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
