"""What a comparison or a search leaves behind in the process that calls it: nothing."""

import logging
import os
import random
import warnings

import joblib
import numpy as np
import pytest
import torch

from lightning_fwd import LightningFwdError
from lightning_fwd.recipes import caller_kept, quiet, require_accelerator, worker_count


def state():
    return (
        torch.get_num_threads(), logging.getLogger("lightning.pytorch").level, list(warnings.filters), dict(os.environ),
        torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),
    )  # fmt: skip


@pytest.fixture
def own_state(monkeypatch):
    """Settings that are not the defaults, seeds that no test uses, and one of the caller's in the environment."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    threads, level = torch.get_num_threads(), logging.getLogger("lightning.pytorch").level
    torch.set_num_threads(2)
    random.seed(11), np.random.seed(11)  # whatever another test had seeded
    logging.getLogger("lightning.pytorch").setLevel(logging.DEBUG)
    yield
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(level)


@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_s_process_is_given_back(own_state, fails):
    before = state()
    try:
        with caller_kept():
            quiet(3)
            torch.randn(3), random.random(), np.random.rand()
            os.environ["LFWD_NEW"] = "1"
            del os.environ["PL_SEED_WORKERS"]
            assert [a != b for a, b in zip(before, state(), strict=True)] == [True] * 7
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert state() == before


def test_one_worker_per_core_unless_told():
    assert worker_count(None) == joblib.cpu_count() >= 1 and worker_count(3) == 3
    for jobs in (0, -1):
        with pytest.raises(LightningFwdError, match=f"jobs={jobs}"):
            worker_count(jobs)


def test_an_accelerator_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    require_accelerator("auto")
    require_accelerator("cpu")
    with pytest.raises(LightningFwdError, match="accelerator: cuda"):
        require_accelerator("cuda")
