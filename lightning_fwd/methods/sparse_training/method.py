"""Sparse training: few weights at any time, and at intervals the smallest make room for new ones, at constant density.

SET: Mocanu et al., Nature Communications 2018 (arXiv 1707.04780), new weights at random. RigL: Evci et al., "Rigging the lottery", ICML
2020
(arXiv 1911.11134), new weights where the dense gradient is largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...errors import RewriteError
from ...graph.across_ranks import mean
from ...graph.constants import INSERTED
from ...graph.counter_random import hash32, uniform
from ...graph.grad_mode import grad_mode
from ...graph.gradients import gradients
from ...graph.phase import layer, phase
from ...graph.rewritten import RewrittenModel
from ...passes import insert_weight_masks
from ..base import LearningMethod, Logits, StepRecord, Update, Updates, require_trainable


@dataclass
class SparseTraining(LearningMethod):
    """Backpropagation into a fixed number of weights, whose places move: prune by magnitude, regrow by gradient or at random.

    The density over all masked weights is exact at every step: ``round(density * weights)`` exist (new ones start at 0). What this saves is
    storage
    and transfer of weights; dense kernels compute the dense product, and the step's cost is priced so. A traced step (cost, export)
    is the one between two regrowths.

    Args:
        density: fraction of weights that exist.
        regrow: ``"gradient"`` (RigL) or ``"random"`` (SET).
        interval: steps between regrowths.
        fraction: of a layer's weights replaced at the first regrowth; falls to 0 along a half cosine until step ``until``.
        until: the last step that may regrow; about three quarters of all steps.
        distribution: ``"erdos_renyi"`` gives small and narrow layers a higher density (with the kernel size, as RigL does), ``"uniform"``
            the same to all.
        dense: module paths whose weights stay dense and are not counted.
        batch_norm: as for :class:`Backprop`.
        seed: of the regrowth at random.
    """

    forward_only: ClassVar[bool] = False
    positive: ClassVar[tuple[str, ...]] = ("interval",)
    not_negative: ClassVar[tuple[str, ...]] = ("until",)
    density: float = 0.1
    regrow: Literal["gradient", "random"] = "gradient"
    interval: int = 100
    fraction: float = 0.3
    until: int = 1000
    distribution: Literal["erdos_renyi", "uniform"] = "erdos_renyi"
    dense: Sequence[str] = ()
    batch_norm: Literal["train", "freeze"] = "train"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        if not (0 < self.density <= 1 and 0 <= self.fraction <= 1):
            raise RewriteError(
                f"SparseTraining: density={self.density}, fraction={self.fraction}", "", "use 0 < density <= 1, 0 <= fraction <= 1"
            )
        require_trainable(model, [name for name, _ in model.named_parameters()])
        every = dict.fromkeys(p for block in model.plan for p in block.layers)
        kept = [self.dense] if isinstance(self.dense, str) else self.dense
        if unknown := [p for p in kept if p not in every]:
            raise RewriteError(f"SparseTraining: dense={unknown} names no layer", "", f"layers of this model: {', '.join(every)}")
        layers = [p for p in every if p not in kept]
        named = dict(model.named_parameters(remove_duplicate=False))  # a bare nn.Parameter's "layer" has no weight
        weights = {p: w for p in layers if (w := named.get(f"{p}.weight")) is not None and w.ndim >= 2 and w.requires_grad}
        tied = [p for p, w in weights.items() if sum(w is other for other in weights.values()) > 1]
        if tied:
            raise RewriteError(
                f"SparseTraining: {' and '.join(tied)} share one weight",
                "each would move the other's mask",
                f"keep them dense: dense={tied}",
            )
        if not weights:
            raise RewriteError("SparseTraining finds no weight matrix to prune", "all are frozen or named in `dense`", "check both")
        shapes = {p: tuple(w.shape) for p, w in weights.items()}
        counts = allocate(shapes, self.density, self.distribution)
        insert_weight_masks(model, {p: _largest(w.detach().abs(), counts[p]) for p, w in weights.items()})

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        return model.emit(x)[0] if model.has_learned else model.run(x)

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with grad_mode(True, "forward"):
            (logits,) = model.emit(record.input)
        error = yield Logits(logits)
        named = {name: p for name, p in model.parameters_by_name().items() if p.requires_grad}
        with phase("backward"):
            grads, owned = gradients(logits, list(named.values()), error)
        masked = {m.uses[0]: (key, m) for key, m in model.inserted.weight_masks.items()}
        regrows = self._regrows(record.counter)
        for place, (name, grad) in enumerate(zip(named, grads, strict=True)):
            if grad is None:
                continue
            if name not in masked:
                yield Update(name, named[name], grad, fresh=owned)
                continue
            key, module = masked[name]
            if regrows:
                new = self._regrown(named[name], mean(grad) if self.regrow == "gradient" else grad, module.mask, record.counter, place)
                yield Update(name, named[name], value=named[name].detach() * module.mask * new)
                yield Update(f"{INSERTED}.weight_masks.{key}.mask", module.mask, value=new)
            with grad_mode(False, "update"), layer(name.rpartition(".")[0]):
                gradient = grad * module.mask  # not in place: traced, the storage may be another parameter's too (of a sum of weights)
            yield Update(name, named[name], gradient, fresh=True)

    def beyond_the_step(self, model: RewrittenModel) -> str:
        last = self.until // self.interval * self.interval
        due = self.fraction > 0 and int(model.inserted.counter) <= last > 0
        return f"regrowth every {self.interval} steps; set fraction=0 to train the present weights only" if due else ""

    def _regrows(self, counter: Tensor) -> bool:
        if type(counter) is not Tensor:  # being traced
            return False
        step = int(counter)
        return 0 < step <= self.until and step % self.interval == 0

    def _regrown(self, weight: Tensor, grad: Tensor, mask: Tensor, counter: Tensor, place: int) -> Tensor:
        """The next mask: as many weights as before."""
        count = int(mask.count_nonzero())
        fraction = self.fraction / 2 * (1 + math.cos(math.pi * min(1.0, int(counter) / max(self.until, 1))))
        moving = min(int(fraction * count), mask.numel() - count)
        kept = _largest(torch.where(mask > 0, weight.detach().abs(), -1.0), count - moving)
        score = (
            grad.abs() if self.regrow == "gradient" else uniform(counter * 1024 + (place + hash32(self.seed)), mask.shape, mask.device) + 2
        )
        return kept + _largest(torch.where(kept > 0, -1.0, score), moving)

    @staticmethod
    def density_of(model: RewrittenModel) -> float:
        """Fraction of the masked layers' weights that exist."""
        masks = [m.mask for m in model.inserted.weight_masks.values()]
        return sum(int(m.count_nonzero()) for m in masks) / sum(m.numel() for m in masks)


def _largest(score: Tensor, count: int) -> Tensor:
    """1 at the ``count`` largest entries, 0 elsewhere."""
    mask = torch.zeros_like(score).flatten()
    return mask.index_fill_(0, score.flatten().topk(count).indices, 1.0).reshape(score.shape)


def allocate(shapes: dict[str, tuple[int, ...]], density: float, distribution: str) -> dict[str, int]:
    """How many weights of each layer exist: ``round(density * all)`` in total, at least one each.

    Erdos-Renyi-kernel: a layer's density is proportional to the sum of its dimensions over their product, at most 1.
    """
    sizes = {p: math.prod(s) for p, s in shapes.items()}
    total = max(round(density * sum(sizes.values())), len(sizes))
    wish = {p: sum(s) if distribution == "erdos_renyi" else sizes[p] for p, s in shapes.items()}
    exact, free, left = {}, dict(wish), float(total)
    while free:  # layers whose share exceeds them are full; the others divide what remains
        factor = left / sum(free.values())
        full = [p for p in free if free[p] * factor >= sizes[p]]
        if not full:
            exact |= {p: max(1.0, w * factor) for p, w in free.items()}
            break
        for p in full:
            exact[p] = float(sizes[p])
            left -= sizes[p]
            del free[p]
    counts = {p: int(e) for p, e in exact.items()}
    short = total - sum(counts.values())
    order = sorted(counts, key=lambda p: counts[p] - exact[p])
    while short:  # largest remainders first; a floor of one may have overdrawn
        for p in order:
            step = (short > 0) - (short < 0)
            if step and 1 <= counts[p] + step <= sizes[p]:
                counts[p] += step
                short -= step
    return counts
