"""What a network is judged by, and the labelled samples that are held back for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import LightningFwdError

_CHUNK = 250
LEAST = 1e-4  #: nats by which a better epoch is better, beside a thousandth
SCALES = tuple(2 ** (k / 2) for k in range(-12, 7))  #: of the logits, that a loss is looked up at


@dataclass
class Samples:
    """What a device has collected.

    Attributes:
        x: labelled inputs ``(N, ...)``, or all where there are no labels. y: their classes ``(N,)``, or None. more: further inputs without
            labels.
    """

    x: Tensor
    y: Tensor | None
    more: Tensor | None

    @property
    def inputs(self) -> Tensor:
        """All inputs, labelled or not."""
        return self.x if self.more is None else torch.cat([self.x, self.more])


def read_samples(data: Any, unlabelled: Any = None) -> Samples:
    """Samples in memory from ``(x, y)``, ``x``, batches of these, or a LightningDataModule (its training part).

    Raises:
        LightningFwdError: there are none, or labels do not fit them.
    """
    x, y = _tensors(data)
    more = None if unlabelled is None else _tensors(unlabelled)[0]
    if len(x) < 2 or (y is not None and (y.shape != x.shape[:1] or y.is_floating_point())):
        found = f"{len(x)} samples" + ("" if y is None else f" and labels of shape {tuple(y.shape)} and {y.dtype}")
        raise LightningFwdError(
            f"adapt got {found}", "it needs two samples at least, and a class index for each", "give (x (N, ...), y (N,))"
        )
    if more is not None and more.shape[1:] != x.shape[1:]:
        raise LightningFwdError(
            f"unlabelled samples have shape {tuple(more.shape[1:])}, the labelled ones {tuple(x.shape[1:])}", "", "give samples of one kind"
        )
    return Samples(_usable(x), None if y is None else _usable(y.long()), None if more is None else _usable(more))


def require_counts(labelled: int, inputs: int, held_back: float) -> None:
    """So many labelled samples, of so many inputs in all, suffice to learn from and to judge by, whatever the seed.

    Raises:
        LightningFwdError: they do not, or ``held_back`` is no share.
    """
    if not isinstance(held_back, Real) or not 0.0 <= held_back < 1.0:
        raise LightningFwdError(f"adapt: held_back={held_back!r}", "it is a share of the labelled samples", "use 0 <= held_back < 1")
    if labelled < 0 or inputs < max(2, labelled):
        raise LightningFwdError(f"adapt: {labelled} labelled samples of {inputs}", "it needs two samples at least", "collect more")
    if labelled and held_back > 0:
        what = f"adapt: {held_back:g} of {labelled} labelled samples are"
        if math.floor(labelled * held_back + 1e-9) < 2:
            raise LightningFwdError(f"{what} too few to judge by", "", "hold more back, or none (held_back=0)")
        if math.floor(labelled * (1 - held_back) + 1e-9) < 1:
            raise LightningFwdError(f"{what} all there are", "nothing is left to learn from", "hold less back")


def _usable(data: Tensor) -> Tensor:
    """Without a history; tensors of inference mode cannot be learned from."""
    return data.clone() if data.is_inference() else data.detach()


def _tensors(data: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(data, Tensor):
        return data, None
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if isinstance(data, tuple) or data[1].ndim == 1:  # a list of two tensors may be two batches without labels
            return data[0], data[1]
    if hasattr(data, "train_dataloader"):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    mend = "give (x, y) as tensors, batches of these, or a LightningDataModule that gives them"
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable) or hasattr(data, "__array__"):
        keys = f" with the keys {', '.join(map(str, data))}" if isinstance(data, Mapping) else ""
        raise LightningFwdError(f"adapt got {type(data).__name__}{keys}", "samples are tensors", mend)
    together = isinstance(data, tuple) and any(isinstance(part, Tensor) for part in data)
    if together or (isinstance(data, list) and len({part.ndim for part in data if isinstance(part, Tensor)}) > 1):  # a loader gives lists
        raise LightningFwdError(f"adapt got {', '.join(type(part).__name__ for part in data)} together", "a batch is x and y", mend)
    parts = [_tensors(batch) for batch in data]
    if not parts:
        raise LightningFwdError("adapt got no samples", "the data are empty", mend)
    if any(x.ndim < 2 or (y is not None and y.ndim < 1) for x, y in parts):
        raise LightningFwdError("adapt got single samples in a list", "", "give batches (B, ...), such as a DataLoader makes of them")
    if len(shapes := {x.shape[1:] for x, _ in parts}) > 1:
        raise LightningFwdError(
            f"adapt got samples of shapes {' and '.join(str(tuple(s)) for s in shapes)}", "", "give samples of one kind"
        )
    labels = [y for _, y in parts if y is not None]
    if labels and len(labels) < len(parts):
        raise LightningFwdError(
            f"adapt got {len(labels)} batches with labels and {len(parts) - len(labels)} without",
            "",
            "give those without as unlabelled=..., beside (x, y)",
        )
    return torch.cat([x for x, _ in parts]), torch.cat(labels) if labels else None


def split(y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices ``(kept, held back)``: of each class ``share`` is held back, rounded at random so that the total comes out."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    order = order[torch.argsort(y[order].cpu(), stable=True)]  # class by class, each in random order
    places = torch.arange(len(y)) * share + torch.rand((), generator=generator)
    held = torch.floor(places + share) > torch.floor(places)  # every 1/share-th
    return order[~held], order[held]


@dataclass
class Verdict:
    """What a network is worth on the samples that judge.

    Attributes:
        loss: mean cross-entropy on labelled samples, at that one of :data:`SCALES` of the logits where it is lowest (temperature scaling;
            Guo et al. 2017, arXiv 1706.04599); without labels the mean entropy of the predictions; in nats. Of reconstructions the mean
            squared error. Infinite if not finite.
        right: ``(N,)`` which samples it classifies rightly; None without labels or classes.
        losses: ``(N,)`` of each labelled sample, at the same scale; None where they are not kept.
    """

    loss: float
    right: Tensor | None
    losses: Tensor | None = None

    def better_than(self, best: Verdict) -> bool:
        """Whether an epoch is better than the best one so far: by a thousandth and a little more, for what is less is rounding."""
        return self.loss < best.loss - best.loss / 1024 - LEAST

    def against(self, before: Verdict) -> str:
        """What speaks against this network, held against the one before; empty if nothing does.

        Each is judged at its own best scale: a network that is sure of its errors would gain loss by becoming unsure, whatever becomes of
        its answers. And of its right answers it may lose no more than it wins and their standard error (the square root of both together,
        McNemar 1947).
        """
        if self.loss == before.loss:
            return "it changes nothing"
        if not self.loss < before.loss:
            return "it does harm"
        lost, won = self.changed(before)
        return f"it does harm: it loses {lost} right answers and wins {won}" if lost - won > math.sqrt(lost + won) else ""

    def chance(self, before: Verdict) -> str:
        """What speaks for chance: that the samples' losses fall by no more than the standard error of what they gain; empty if nothing."""
        if self.losses is None or before.losses is None or len(self.losses) < 2:
            return ""
        gain, error = self.gain(before)
        return "" if gain > error else f"it may be chance: the loss falls by {gain:.2g}, with a standard error of {error:.2g}"

    def gain(self, before: Verdict) -> tuple[float, float]:
        """By how much the samples' losses fall on average, and the standard error of that mean; in nats."""
        assert self.losses is not None and before.losses is not None
        gains = (before.losses - self.losses).double()
        return float(gains.mean()), float(gains.std()) / math.sqrt(len(gains))

    def changed(self, before: Verdict) -> tuple[int, int]:
        """How many right answers it loses and how many it wins; none without labels."""
        if self.right is None or before.right is None:
            return 0, 0
        return int((before.right & ~self.right).sum()), int((self.right & ~before.right).sum())


@torch.no_grad()
def judge(net: nn.Module, x: Tensor, y: Tensor | None) -> Verdict:
    """``x (N, ...)``, ``y``: classes ``(N,)``, what is to be given ``(N, ...)``, or None."""
    net.eval()
    logits = torch.cat([net(x[start : start + _CHUNK]).float() for start in range(0, len(x), _CHUNK)])
    if y is not None and y.is_floating_point():
        loss = float(F.mse_loss(logits, y))
        return Verdict(loss if loss == loss else float("inf"), None)
    if y is None:
        logs = logits.log_softmax(1)
        loss = -float((logs.exp() * logs).sum(1).mean())
        return Verdict(loss if loss == loss else float("inf"), None)
    loss, best = min((float(F.cross_entropy(logits * scale, y)), scale) for scale in SCALES)
    if not math.isfinite(loss):
        return Verdict(math.inf, logits.argmax(1) == y)
    return Verdict(loss, logits.argmax(1) == y, F.cross_entropy(logits * best, y, reduction="none"))
