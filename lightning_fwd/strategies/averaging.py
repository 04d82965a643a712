"""Lightning's averages of weights: copies of the module that are made before its network is rewritten, and batch norms that stay as they
are."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from ..graph.operand import given


def spare_frozen_norms(callback: StochasticWeightAveraging) -> None:
    """Let the callback re-estimate the statistics of those batch norms only that are in training mode.

    It sets all statistics to 0 and 1 and lets one more epoch of forward passes collect them anew, in which a norm in eval mode collects
    nothing.
    """
    callback.reset_batch_norm_and_save_state = partial(_reset_training_norms, callback)  # type: ignore[method-assign]


def _reset_training_norms(callback: StochasticWeightAveraging, module: LightningModule) -> None:
    frozen = [m for m in module.modules() if isinstance(m, _BatchNorm) and not m.training]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in frozen]
    counts = [given(norm.num_batches_tracked).clone() for norm in frozen]
    type(callback).reset_batch_norm_and_save_state(callback, module)
    for norm, buffers, count in zip(frozen, kept, counts, strict=True):
        norm._buffers.update(buffers)
        given(norm.num_batches_tracked).copy_(count)
        norm.momentum = callback.momenta.pop(norm)


def rewrite_averages(module: LightningModule) -> None:
    """Callbacks that copied the module to average its weights copy it again, before anything is averaged: what was inserted is averaged
    too."""
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None)
        if isinstance(average, AveragedModel):
            average.module = deepcopy(module).to(next(average.module.parameters()).device)
        elif isinstance(average, LightningModule):
            callback._average_model = deepcopy(module).to(next(average.parameters()).device)
