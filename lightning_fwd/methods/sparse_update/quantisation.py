"""Quantisation-aware scaling: gradients of integer weights, brought to the size that the weights have.

Lin et al. 2022 (arXiv 2206.15472), section 3.1. A weight held in integer units is ``w / s_w``, so its gradient is ``s_w`` times that of w while
it is ``1 / s_w`` times as large: the ratio is off by ``s_w^2``. A bias in integer units is ``b / (s_w s_x)``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from ...graph.errors import RewriteError
from ...graph.phase import layer, phase
from ...graph.rewritten import RewrittenModel
from ...graph.step import Update


def check_scales(model: RewrittenModel, scales: Mapping[str, tuple[float, float]], trained: Collection[str]) -> None:
    """Refuse scales of something that is no layer, of a layer without a parameter in ``trained``, or that are no pair of positive numbers.

    Raises:
        RewriteError: naming the entry.
    """
    if not isinstance(scales, Mapping):
        raise RewriteError(f"integer_scales={scales!r}", "", "give layer: (weight scale, input scale)")
    layers = [path for block in model.plan for path in block.layers]
    for path, pair in scales.items():
        if path not in layers:
            raise RewriteError(f"integer_scales: {path!r} is no layer", "", f"layers of this model: {', '.join(layers)}")
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(s, int | float) and 0 < s < math.inf for s in pair):
            raise RewriteError(
                f"integer_scales: {path}: {pair!r}", "a scale is the value of one integer step", "give (weight scale, input scale), both > 0"
            )
        learning = sorted({name.rpartition(".")[0] for name in trained})
        if path not in learning:
            raise RewriteError(f"integer_scales: {path!r} is not trained", "its scales would scale nothing", f"trained are: {', '.join(learning)}")


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
