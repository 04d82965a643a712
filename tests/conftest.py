"""Shared by all tests: one thread, one seed."""

import gc
import logging

import pytest
import torch

# Graphs are made of millions of small objects that live long: the collector would look through them all again every 700 new ones.
gc.freeze()
gc.set_threshold(50_000, 20, 100)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _same_start():
    torch.set_num_threads(1)
    torch.manual_seed(0)
