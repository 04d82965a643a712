"""Batch-norm statistics recomputed on the target: forward passes only, no labels, no gradient.

Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020 (arXiv 2006.16971).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import RewriteError
from ...graph.phase import phase
from ...graph.rewritten import RewrittenModel
from ...passes.collect_batch_statistics import collect_batch_statistics
from ..base import LearningMethod, Logits, StepRecord, Update, Updates


@dataclass
class Statistics(LearningMethod):
    """Replace each batch norm's running mean and variance by those of the data that passes through.

    Args:
        momentum: weight of each new batch; None averages all batches since the rewrite equally (the source statistics are forgotten
            with the first one).
        norms: paths of modules whose batch norms follow; the others keep their statistics. Empty: all follow.
    """

    updates_buffers_only: ClassVar[bool] = True
    momentum: float | None = None
    norms: Sequence[str] = ()

    def rewrite(self, model: RewrittenModel) -> None:
        if self.momentum is not None and not 0.0 < self.momentum <= 1.0:
            raise RewriteError(f"Statistics: momentum={self.momentum}", "it weighs the new batch", "use 0 < momentum <= 1, or None")
        if isinstance(self.norms, str):
            raise RewriteError(f"Statistics: norms={self.norms!r}", "expected paths of modules", f"write norms: [{self.norms}]")
        norms = collect_batch_statistics(model, self.norms)
        if not norms:
            where = f" under {', '.join(self.norms)}" if self.norms else ""
            raise RewriteError(
                f"Statistics finds no batch norm with running statistics in {type(model.original).__name__}{where}",
                "they are all that this rule changes",
                "name modules that hold some" if self.norms else "choose another method for this model",
            )
        model.inserted.norms = norms
        model.freeze({name for name, _ in model.named_parameters()})

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with torch.no_grad(), phase("forward"):
            logits, *batch = model.emit(record.input)
            weight = 1.0 / (record.counter + 1) if self.momentum is None else self.momentum
        yield Logits(logits)
        for norm, mean, var in zip(model.inserted.norms, batch[::2], batch[1::2], strict=True):
            for name, new in ((f"{norm}.running_mean", mean), (f"{norm}.running_var", var)):
                buffer = model.get_buffer(name)
                yield Update(name, buffer, value=_blend(buffer, new, weight))


def _blend(old: Tensor, new: Tensor, weight: float | Tensor) -> Tensor:
    with torch.no_grad(), phase("update"):
        return old + weight * (new - old)
