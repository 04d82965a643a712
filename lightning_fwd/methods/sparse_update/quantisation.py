"""Quantisation-aware scaling: gradients of integer weights, brought to the size that the weights have.

Lin et al. 2022 (arXiv 2206.15472), section 3.1. A weight held in integer units is ``w / s_w``, so its gradient is ``s_w`` times that of w
while it is ``1 / s_w`` times as large: the ratio is off by ``s_w^2``. A bias in integer units is ``b / (s_w s_x)``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from ...errors import RewriteError
from ...graph.blocks import canonical_names
from ...graph.phase import layer, phase
from ...graph.rewritten import RewrittenModel
from ...graph.step import Update
from ..scheme import is_bias, under


def integer_factors(model: RewrittenModel, scales: Mapping[str, tuple[float, float]], trained: Collection[str]) -> dict[str, float]:
    """What the gradient of each parameter in ``trained`` is multiplied by: ``s_w^-2`` for a layer's weight, ``(s_w s_x)^-2`` for its bias.

    Args:
        scales: layer path to ``(s_w, s_x)``; layers without an entry are left alone.

    Raises:
        RewriteError: scales of something that is no layer, of a layer without a trained parameter, that are no pair of positive numbers, or
            that differ for the two layers of a tied weight.
    """
    if not isinstance(scales, Mapping):
        raise RewriteError(f"integer_scales={scales!r}", "", "give layer: (weight scale, input scale)")
    layers, first = [path for block in model.plan for path in block.layers], canonical_names(model)
    factors: dict[str, float] = {}
    for path, pair in scales.items():
        if path not in layers:
            raise RewriteError(f"integer_scales: {path!r} is no layer", "", f"layers of this model: {', '.join(layers)}")
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(s, int | float) and 0 < s < math.inf for s in pair):
            raise RewriteError(
                f"integer_scales: {path}: {pair!r}",
                "a scale is the value of one integer step",
                "give (weight scale, input scale), both > 0",
            )
        learning = [name for name in under(first, path) if first[name] in trained]
        if not learning:
            raise RewriteError(
                f"integer_scales: {path!r} is not trained", "its scales would scale nothing", f"trained are: {', '.join(sorted(trained))}"
            )
        for name in learning:
            factor = (pair[0] * pair[1] if is_bias(name) else pair[0]) ** -2
            if factors.setdefault(first[name], factor) != factor:
                raise RewriteError(
                    f"integer_scales: {path}: {pair!r}", f"{name!r} is tied to a weight with another scale", "give both the same"
                )
    return factors


def scale_for_integers(updates: Iterable[Update], factors: Mapping[str, float]) -> Iterator[Update]:
    """Multiply gradients by the factors of :func:`integer_factors`."""
    for update in updates:
        if update.gradient is not None and update.name in factors:
            with torch.no_grad(), phase("update"), layer(update.name.rpartition(".")[0]):
                update = replace(update, gradient=update.gradient * factors[update.name], fresh=True)
        yield update
