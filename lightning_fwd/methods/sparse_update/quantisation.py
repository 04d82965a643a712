"""Quantisation-aware scaling: gradients of integer weights, brought to the size that the weights have.

Lin et al. 2022 (arXiv 2206.15472), section 3.1. A weight held in integer units is ``w / s_w``, so its gradient is ``s_w`` times that of w while
it is ``1 / s_w`` times as large: the ratio is off by ``s_w^2``. A bias in integer units is ``b / (s_w s_x)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from ...graph.phase import layer, phase
from ...graph.step import Update


def scale_for_integers(updates: Iterable[Update], scales: Mapping[str, tuple[float, float]]) -> Iterator[Update]:
    """Divide the gradients of a layer's weight by ``s_w^2`` and of its bias by ``(s_w s_x)^2``.

    Args:
        scales: layer path to ``(s_w, s_x)``; layers without an entry are left alone.
    """
    for update in updates:
        path, _, kind = update.name.rpartition(".")
        if update.gradient is not None and path in scales:
            weight_scale, input_scale = scales[path]
            step = weight_scale if kind == "weight" else weight_scale * input_scale
            with torch.no_grad(), phase("update"), layer(path):
                update = replace(update, gradient=update.gradient * step**-2)
        yield update
