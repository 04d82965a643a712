"""Told before training: a rule that keeps batch norm's statistics as stored, on a network that has none yet."""

from __future__ import annotations

import warnings
from typing import get_args, get_type_hints

from torch import nn

from ..graph.operand import given
from ..graph.rewritten import RewrittenModel


def warn_of_fresh_norms(model: RewrittenModel) -> None:
    """Warn if every batch norm still has the statistics that it was built with (mean 0, variance 1) and the rule will keep them.

    Such a network was not pretrained: its activations then grow or die from layer to layer, and the rule stays near chance.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    if not norms or not model.method.freeze_batch_norm or model.method.updates_buffers_only:
        return
    if any(bool(given(norm.running_mean).any() or (given(norm.running_var) != 1).any()) for norm in norms):
        return
    rule, network = type(model.method).__name__, type(model.original).__name__
    trains = "train" in get_args(get_type_hints(type(model.method)).get("batch_norm"))
    way = f"{rule}(batch_norm='train')" if trains else "a network without batch norm, or recompute them first (strategy='statistics')"
    warnings.warn(
        f"{rule} keeps batch norm's statistics as they are, and those of {network} have seen no batch yet (mean 0, variance 1): it looks untrained. "
        f"{rule} expects a pretrained network here; from scratch use {way}.",
        stacklevel=2,
    )
