"""Lazy modules (``nn.LazyConv2d``, ...), whose shapes come with their first input."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .modes import kept_modes


def materialise(net: nn.Module, x: Tensor) -> None:
    """Let lazy modules take their shapes, by one inference on ``x (B, ...)``; nothing happens where there are none.

    A network that cannot be run on ``x`` stays lazy, and says so where it is run next.
    """
    if not any(map(is_lazy, chain(net.parameters(), net.buffers()))):
        return
    try:
        with kept_modes(net), torch.no_grad():
            net.eval()(x)
    except Exception:
        pass
