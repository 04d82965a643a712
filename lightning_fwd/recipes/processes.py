"""What a comparison or a search does to the process that it runs in: how many workers, and nothing that stays behind."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import torch
from joblib.parallel import get_active_backend

from ..errors import LightningFwdError
from ..workers import starting_workers


def worker_count(jobs: int | None) -> int:
    """How many worker processes: as asked for, else as a ``joblib.parallel_config`` around this call says (-1: all workers of a cluster),
    else one
    per core that this process may use (affinity, containers and batch systems counted in).

    Raises:
        LightningFwdError: fewer than one was asked for.
    """
    if jobs is not None and jobs < 1:
        raise LightningFwdError(f"jobs={jobs}", "so many worker processes do no work", "give 1 or more, or leave it out for one per core")
    return jobs or get_active_backend()[1] or joblib.cpu_count()


def run_each(jobs: int, calls: Iterable, in_order: bool = False) -> Iterator[Any]:
    """What ``joblib.delayed`` calls give, each as soon as it is known; all of it at the end where the backend hands out nothing before
    (Ray's)."""
    if not get_active_backend()[0].supports_return_generator:
        return iter(joblib.Parallel(n_jobs=jobs)(calls))
    with starting_workers():
        return joblib.Parallel(n_jobs=jobs, return_as="generator" if in_order else "generator_unordered")(calls)


@contextmanager
def caller_kept() -> Iterator[None]:
    """Give the caller back its threads, Lightning's log level, warning filters, generators of random numbers and environment variables.

    :func:`lightning_fwd.recipes.quiet` changes all of them (the seed goes into the environment too, for the workers of data loaders), and
    with ``jobs=1`` so does every row that runs in this process. Also a decorator.
    """
    threads, environment, log = torch.get_num_threads(), dict(os.environ), logging.getLogger("lightning.pytorch")
    level, python, numpy = log.level, random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), warnings.catch_warnings():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads(threads)
        log.setLevel(level)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
