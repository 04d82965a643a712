"""Do the labels that a rule learns by belong to the user's loss? Read off the error, the loss's gradient at the logits.

A rule with losses of its own takes the labels from the batch; the user's ``training_step`` may have permuted, mixed or remapped its own.
What is held against each other is the sign of the error: every loss on a label (cross-entropy with weights, temperature or smoothing,
focal, one against all,
squared error, hinge) pulls its own label up where the prediction is another class.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import StepError

_ROWS = 8  # with fewer samples nothing is concluded
_WINDOW = 64  # samples that count: of small batches, those of the last steps too
_FIRST, _EVERY = 16, 32  # a step of these is looked at whole; the others only until the error is seen to fit
_ELSEWHERE = 0.25  # of the samples, pulled to another class than their label by a loss on one label each
_ELSEWHERE_HANDED_OVER = 0.6  # of labels that the user gave for this loss: permuted ones of three classes are at two thirds
_AGAINST, _AGAINST_OF_ALL = 0.4, 0.15  # of the samples predicted otherwise, and of all: the loss holds against their label
_MIXED = 0.4  # of the samples, pulled to two classes as it seems
_LEAST, _SEVERAL, _REMAPPED = 3, 0.05, 0.8  # samples, and of all: beyond doubt pulled to several classes; of a class's: to another class


class LabelCheck:
    """Counts over the last steps of how the samples' labels stand to the loss; each step adds its batch before anything is changed."""

    def __init__(self) -> None:
        self._steps, self._warned = 0, False
        self._counts = torch.zeros(8, dtype=torch.float64)  # rows, then of what see() stacks
        self._by_class: Tensor | None = None  # rows of each class whose loss is on one label, and of these on another (2, C)

    def see(self, rule: str, logits: Tensor, target: Tensor, error: Tensor, handed_over: bool) -> None:
        """Add one batch.

        Args:
            logits: ``(B, C)``. target: the rule's labels ``(B,)``. error: the loss's gradient ``(B, C)``, whatever its scale.
            handed_over: the user gave these labels for this loss (``lf.set_labels``), so that samples mixed of two, or class
                weights and smoothing that together outweigh a label, are meant to be.

        Raises:
            StepError: the labels do not fit the loss.
        """
        if type(error) is not Tensor or error.shape != logits.shape or target.shape != error.shape[:1]:  # traced, or a rule of one's own
            return
        self._steps += 1
        classes = error.shape[1]
        lowest = error.argmin(1)
        if self._steps > _FIRST and self._steps % _EVERY and torch.equal(lowest, target):
            return
        logits = logits.detach()
        error = error.float()
        size = error.abs().amax(1)
        if not bool(size.any()):
            self._warn_of_no_error(rule)
            return
        left_out = _left_out(logits.float(), target, size)
        active = size > 1e-4 * size.max()  # a sample without error says nothing: ignored by the loss, or learned
        logits, target, error, size, lowest = (t[active] for t in (logits.float(), target, error, size, lowest))
        tiny = max(1e-4, 4 * torch.finfo(logits.dtype).eps)
        negative = (error < -tiny * size[:, None]).sum(1)
        own = error.gather(1, target[:, None])[:, 0] / size
        predicted = logits.argmax(1)
        otherwise = predicted != target
        shifted = error.sum(1).abs() <= 0.1 * size  # the loss hardly changes when all logits are shifted alike: of the softmax's kind
        beyond = error.gather(1, predicted[:, None])[:, 0] / size
        against = otherwise & (own > tiny) & (shifted | (own >= beyond))
        elsewhere = (lowest != target) & (negative == 1)
        labels = _labels_of(logits, error, size)
        several, alike = _mixed_alike(labels)
        mixed = (_of_two_labels(logits, error, size) & (negative == 2)) | several
        several = several & alike
        self._count_classes(target, labels)
        now = torch.stack([torch.ones_like(otherwise), negative != 1, elsewhere, otherwise, against, mixed, several]).sum(1)
        self._add(torch.cat([now, left_out[None]]).cpu().double())
        self._refuse_left_out(rule)
        self._conclude(rule, target, torch.where(elsewhere, lowest, target), classes, handed_over)

    def _warn_of_no_error(self, rule: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the loss of this batch is zero times what the network gives, and {rule}'s hidden layers learn from it all the same, by "
                "losses of their own; to skip a batch, let training_step return None before it calls the network",
                stacklevel=2,
            )

    def _add(self, now: Tensor) -> None:
        self._counts = self._counts * max(0.0, 1 - float(now[0] + now[7]) / _WINDOW) + now

    def _refuse_left_out(self, rule: str) -> None:
        rows, left_out = float(self._counts[0]), float(self._counts[7])
        if left_out >= max(_LEAST, _SEVERAL * (rows + left_out)) and rows + left_out >= _ROWS:
            self._counts.zero_()
            raise StepError(
                f"the loss leaves out {left_out / (rows + left_out):.0%} of the samples, and {rule} learns from them all the same: its "
                "error there is zero, while the model predicts another class than their label",
                "its hidden layers learn by losses of their own, on every sample that the network is given",
                "choose the samples before the network (self.net(x[known]), with lf.set_labels(y[known])); or use a rule that learns from "
                "your loss alone (backprop, pepita, direct_feedback)",
            )

    def _count_classes(self, target: Tensor, labels: Tensor) -> None:
        """Add rows whose loss is on one label without a doubt."""
        one = (labels > 0).sum(1) == 1
        rows, other = target[one], one & (labels.argmax(1) != target)
        now = torch.stack([torch.bincount(t, minlength=labels.shape[1]) for t in (rows, target[other])]).cpu().double()
        self._by_class = now if self._by_class is None else self._by_class + now

    def _conclude(self, rule: str, target: Tensor, pulled: Tensor, classes: int, handed_over: bool) -> None:
        rows, other, elsewhere, otherwise, against, mixed, several, _ = self._counts.tolist()
        if rows < _ROWS:
            return
        of_one_label = classes > 2 and other <= 0.05 * rows
        if of_one_label and elsewhere >= (_ELSEWHERE_HANDED_OVER if handed_over else _ELSEWHERE) * rows:
            i = int((pulled != target).int().argmax())
            found = f", sample {i} from {int(target[i])} to {int(pulled[i])}" if bool((pulled != target).any()) else ""
            self._refuse(rule, f"the loss pulls {elsewhere / rows:.0%} of the samples to another class than their label{found}")
        if not of_one_label and not handed_over and against >= _AGAINST * otherwise and against >= max(2.0, _AGAINST_OF_ALL * rows):
            self._refuse(
                rule, f"of the samples that the model predicts otherwise, the loss pulls {against / otherwise:.0%} away from their label"
            )
        if (mixed >= _MIXED * rows or several >= max(_LEAST, _SEVERAL * rows)) and not handed_over:
            self._refuse(
                rule, f"the loss pulls {max(mixed, several) / rows:.0%} of the samples to several classes each, as mixing them does"
            )
        if handed_over or self._by_class is None:
            return
        least = _LEAST + math.log10(classes)  # among many classes a few are unlucky where labels are noisy
        remapped = (self._by_class[1] >= least) & (self._by_class[1] >= _REMAPPED * self._by_class[0])
        if bool(remapped.any()):
            i = int(remapped.int().argmax())
            self._refuse(rule, f"the loss pulls {int(self._by_class[1, i])} of {int(self._by_class[0, i])} samples of class {i} to another")

    def _refuse(self, rule: str, what: str) -> None:
        self._counts.zero_()
        self._by_class = None
        raise StepError(
            f"the labels that {rule} learns by do not fit your loss: {what}",
            "its hidden layers learn by the labels that stand in the batch, and your loss takes others: permuted, mixed, remapped, or from "
            "another place in the batch",
            "where they stand elsewhere in the batch: ForwardOnlyStrategy(method, target_key=...); where training_step makes them: call "
            "lf.set_labels(labels) before the network (import lightning_fwd as lf); for a loss that is not on one label per sample: a rule "
            "that learns from your loss alone (backprop, pepita, direct_feedback)",
        )


def _left_out(logits: Tensor, target: Tensor, size: Tensor) -> Tensor:
    """How many samples have no error though they are predicted otherwise, where that is not for being easy or hard: their losses lie among
    those of the others, neither all below (the hardest are mined) nor all above (large losses are cut off)."""
    out = (size == 0) & (logits.argmax(1) != target)
    if not bool(out.any()):
        return out.sum()
    losses = F.cross_entropy(logits, target, reduction="none")
    left, kept = losses[out], losses[size > 0]
    return out.sum() * ((left.max() > kept.min()) & (left.min() < kept.max()))


def _mixed_alike(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with several labels ``(B,)``, and whether these are mixed alike: in most rows by the same shares, as one draw for a batch does
    and a teacher does not."""
    several, largest = (labels > 0).sum(1) > 1, labels.amax(1)
    if not bool(several.any()):
        return several, several.any()
    alike = (largest - largest[several].median()).abs() < 0.01
    count = int((several & alike).sum())
    return several, torch.tensor(count >= _LEAST and count >= 0.8 * int(several.sum()), device=labels.device)


def _labels_of(logits: Tensor, error: Tensor, size: Tensor) -> Tensor:
    """Of rows that are ``k (g(logits) - t)`` with few labels t, g being softmax, sigmoid or the identity, these labels; of others 0.

    Of seven classes and more: all but the labels are then one multiple of g, which their median tells.

    Returns:
        ``(B, C)``.
    """
    labels = torch.zeros_like(error)
    if error.shape[1] < 7:
        return labels
    for given in (logits.softmax(1), logits.sigmoid(), logits):
        telling = given.abs() > 1e-3 * given.abs().amax(1, keepdim=True)
        factor = (error / given).masked_fill(~telling, float("nan")).nanmedian(1, keepdim=True).values
        left = factor * given - error
        where = left.abs() > 0.05 * error.abs() + 2e-3 * size[:, None]
        found = torch.where(where, left / factor, 0.0)
        shares = (found >= 0.1).logical_or(~where).all(1) & ((found.sum(1) - 1).abs() < 0.05)
        several = ((found - 1).abs() < 0.05).logical_or(~where).all(1)
        alike = (telling & ~where & (error.abs() > 4e-3 * size[:, None])).sum(1) > max(4, error.shape[1] // 2)
        labels = torch.where((alike & (factor[:, 0] > 0) & (shares | several) & (labels == 0).all(1))[:, None], found, labels)
    return labels


def _of_two_labels(logits: Tensor, error: Tensor, size: Tensor) -> Tensor:
    """Whether each row is ``k (softmax - a y_1 - b y_2)``: beside its two lowest entries it is the softmax, but for one factor."""
    if error.shape[1] < 4:
        return torch.zeros(len(error), dtype=torch.bool, device=error.device)
    p = logits.softmax(1)
    others = torch.ones_like(p, dtype=torch.bool).scatter_(1, error.topk(2, 1, largest=False).indices, False)
    others_p, others_e = p[others].view(len(p), -1), error[others].view(len(p), -1)
    factor = others_e.sum(1) / others_p.sum(1).clamp_min(1e-12)
    return (others_e - factor[:, None] * others_p).abs().amax(1) <= 0.01 * size
