"""Do the labels that a rule learns by belong to the user's loss? Read off the error, the loss's gradient at the logits.

A rule with losses of its own takes the labels from the batch; the user's ``training_step`` may have permuted, mixed or remapped its own.
What is held against each other is the sign of the error: every loss on a label (cross-entropy with weights, temperature or smoothing,
focal, one against all,
squared error, hinge) pulls its own label up where the prediction is another class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import StepError

_ROWS = 8  # with fewer samples nothing is concluded
_WINDOW = 64  # samples that count: of small batches, those of the last steps too
_FIRST, _EVERY = 16, 32  # a step of these is looked at whole; the others only until the error is seen to fit
_ELSEWHERE = 0.25  # of the samples, pulled to another class than their label by a loss on one label each
_ELSEWHERE_HANDED_OVER = 0.6  # of labels that the user gave for this loss: permuted ones of three classes are at two thirds
_AGAINST, _AGAINST_OF_ALL = 0.4, 0.15  # of the samples predicted otherwise, and of all: the loss holds against their label
_MIXED = 0.4  # of the samples, pulled to two classes


class LabelCheck:
    """Counts over the last steps of how the samples' labels stand to the loss; each step adds its batch before anything is changed."""

    def __init__(self) -> None:
        self._steps = 0
        self._counts = torch.zeros(6, dtype=torch.float64)  # rows, not one label each, elsewhere, otherwise predicted, against, mixed

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
        active = size > 1e-4 * size.max()  # a sample without error says nothing: ignored by the loss, or learned
        logits, target, error, size, lowest = (t[active] for t in (logits.float(), target, error, size, lowest))
        if not len(error):
            return
        tiny = max(1e-4, 4 * torch.finfo(logits.dtype).eps)
        negative = (error < -tiny * size[:, None]).sum(1)
        own = error.gather(1, target[:, None])[:, 0] / size
        predicted = logits.argmax(1)
        otherwise = predicted != target
        shifted = error.sum(1).abs() <= 0.1 * size  # the loss hardly changes when all logits are shifted alike: of the softmax's kind
        beyond = error.gather(1, predicted[:, None])[:, 0] / size
        against = otherwise & (own > tiny) & (shifted | (own >= beyond))
        elsewhere = (lowest != target) & (negative == 1)
        mixed = _of_two_labels(logits, error, size) & (negative == 2)
        now = torch.stack([torch.ones_like(otherwise), negative != 1, elsewhere, otherwise, against, mixed]).sum(1).cpu().double()
        self._counts = self._counts * max(0.0, 1 - float(now[0]) / _WINDOW) + now
        self._conclude(rule, target, torch.where(elsewhere, lowest, target), classes, handed_over)

    def _conclude(self, rule: str, target: Tensor, pulled: Tensor, classes: int, handed_over: bool) -> None:
        rows, several, elsewhere, otherwise, against, mixed = self._counts.tolist()
        if rows < _ROWS:
            return
        of_one_label = classes > 2 and several <= 0.05 * rows
        if of_one_label and elsewhere >= (_ELSEWHERE_HANDED_OVER if handed_over else _ELSEWHERE) * rows:
            i = int((pulled != target).int().argmax())
            found = f", sample {i} from {int(target[i])} to {int(pulled[i])}" if bool((pulled != target).any()) else ""
            self._refuse(rule, f"the loss pulls {elsewhere / rows:.0%} of the samples to another class than their label{found}")
        if not of_one_label and not handed_over and against >= _AGAINST * otherwise and against >= max(2.0, _AGAINST_OF_ALL * rows):
            self._refuse(
                rule, f"of the samples that the model predicts otherwise, the loss pulls {against / otherwise:.0%} away from their label"
            )
        if mixed >= _MIXED * rows and not handed_over:
            self._refuse(rule, f"the loss pulls {mixed / rows:.0%} of the samples to two classes each, as mixing them does")

    def _refuse(self, rule: str, what: str) -> None:
        self._counts.zero_()
        raise StepError(
            f"the labels that {rule} learns by do not fit your loss: {what}",
            "its hidden layers learn by the labels that stand in the batch, and your loss takes others: permuted, mixed, remapped, or from "
            "another place in the batch",
            "where they stand elsewhere in the batch: ForwardOnlyStrategy(method, target_key=...); where training_step makes them: call "
            "lf.set_labels(labels) before the network (import lightning_fwd as lf); for a loss that is not on one label per sample: a rule "
            "that learns from your loss alone (backprop, pepita, direct_feedback)",
        )


def _of_two_labels(logits: Tensor, error: Tensor, size: Tensor) -> Tensor:
    """Whether each row is ``k (softmax - a y_1 - b y_2)``: beside its two lowest entries it is the softmax, but for one factor."""
    if error.shape[1] < 4:
        return torch.zeros(len(error), dtype=torch.bool, device=error.device)
    p = logits.softmax(1)
    others = torch.ones_like(p, dtype=torch.bool).scatter_(1, error.topk(2, 1, largest=False).indices, False)
    others_p, others_e = p[others].view(len(p), -1), error[others].view(len(p), -1)
    factor = others_e.sum(1) / others_p.sum(1).clamp_min(1e-12)
    return (others_e - factor[:, None] * others_p).abs().amax(1) <= 0.01 * size
