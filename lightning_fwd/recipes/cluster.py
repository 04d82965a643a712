"""Where the trials of a comparison or a search run: worker processes of this machine, or a Dask or Ray cluster, through joblib's own
backends."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import joblib

from ..errors import LightningFwdError

BACKENDS = ("loky", "dask", "ray")


@contextmanager
def on_backend(backend: str = "loky", address: str | None = None) -> Iterator[None]:
    """Inside, ``joblib.Parallel`` runs on this backend; with ``jobs`` left out, on all of its workers.

    Args:
        backend: ``"loky"``: processes of this machine. ``"dask"``: workers of the scheduler at ``address``. ``"ray"``: of the Ray cluster
            there, or of the one that Ray itself finds.

    Raises:
        LightningFwdError: the backend is not installed, there is no such address, nobody answers there, or Dask workers that run several
            trials in one process (their generators of random numbers would be one).
    """
    if backend not in BACKENDS:
        raise LightningFwdError(f"backend {backend!r}", "", f"known are {', '.join(BACKENDS)}")
    if backend == "loky":
        if address is not None:
            raise LightningFwdError(
                f"address {address!r}", "worker processes of this machine have none", "give --backend dask or ray, or leave it out"
            )
        yield
    elif backend == "dask":
        if address is None:
            raise LightningFwdError("backend dask without an address", "its scheduler is to be found", "give --address tcp://HOST:8786")
        distributed = _installed("distributed", "dask")
        try:
            client = distributed.Client(address, timeout=20, set_as_default=True)
        except (OSError, ValueError) as error:
            mend = "start one with `dask scheduler`, or correct the address"
            raise LightningFwdError(f"no Dask scheduler at {address}", str(error), mend) from error
        with client:
            _require_one_trial_per_process(client, address)
            with joblib.parallel_config("dask", n_jobs=-1):
                yield
    else:
        ray = _installed("ray", "ray")
        _installed("ray.util.joblib", "ray").register_ray()
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            mend = "start one with `ray start --head`, or correct the address"
            raise LightningFwdError(f"no Ray cluster at {address}", str(error), mend) from error
        try:
            with joblib.parallel_config("ray", n_jobs=-1):
                yield
        finally:
            ray.shutdown()


def _installed(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = "pip install 'lightning_fwd[cluster]'" if name == "dask" else f"pip install {name}"
        raise LightningFwdError(f"backend {name} is not installed", str(error), extra) from error


def _require_one_trial_per_process(client: Any, address: str) -> None:
    client.wait_for_workers(1, timeout=60)
    several = [worker for worker, threads in client.nthreads().items() if threads > 1]
    if several:
        raise LightningFwdError(
            f"{len(several)} Dask workers of {address} have more than one thread ({several[0]})",
            "trials in threads of one process would share seeds, settings and the number of torch's threads",
            "start them with `dask worker --nthreads 1 --nworkers N`",
        )
