"""The global random generators: where they stand, and put back there. Of torch, numpy and Python, and what generators of its own a model
holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def global_states(device: torch.device | None = None) -> tuple:
    """Where the generators of torch, of its CUDA ``device``, of numpy and of Python stand; two of these are equal if nothing was drawn
    between."""
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes() if device is not None and device.type == "cuda" else b""
    numpys = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().numpy().tobytes(), cuda, numpys["key"].tobytes(), numpys["pos"], random.getstate()


def own_states(module: nn.Module) -> list[Any]:
    """Where the generators stand that a module holds as attributes."""
    found: list[Any] = []
    for value in vars(module).values():
        if isinstance(value, torch.Generator):
            found.append(value.get_state().numpy().tobytes())
        elif isinstance(value, np.random.Generator):
            found.append(str(value.bit_generator.state))
        elif isinstance(value, random.Random):
            found.append(value.getstate())
    return found


@contextmanager
def kept_generators() -> Iterator[None]:
    """Whatever is drawn inside from the global generators of a CPU, they stand where they stood."""
    torchs, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)
        random.setstate(pythons)
