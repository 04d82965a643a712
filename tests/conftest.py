"""Shared by all tests: one thread, one seed."""

import gc
import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too

import pytest  # noqa: E402
import torch  # noqa: E402

# Graphs are made of millions of small objects that live long: the collector would look through them all again every 700 new ones.
gc.freeze()
gc.set_threshold(50_000, 20, 100)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    torch.manual_seed(0)
