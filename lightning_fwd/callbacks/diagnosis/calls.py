"""What training_step did with a batch: the network's calls, their labels, and the error that came back to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import StepError
from ...graph.label_check import LabelCheck
from ...graph.pending import PendingSteps


@dataclass
class _Call:
    input: Tensor
    logits: Tensor
    target: Any
    handed_over: bool
    error: Tensor | None = None


class Calls:
    """The calls of one batch whose logits a loss may reach; others (a teacher's, under ``no_grad``) are none."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._check = LabelCheck()

    @property
    def rows(self) -> int:
        """Samples of all calls."""
        return sum(len(call.input) for call in self._calls)

    @property
    def targets(self) -> list[Any]:
        """Of each call, the labels that were known."""
        self._share_labels()
        return [call.target for call in self._calls]

    def clear(self) -> None:
        self._calls = []

    def see(self, x: Tensor, logits: Tensor, pending: PendingSteps) -> None:
        """Add a call ``x (B, ...) -> logits (B, C)``."""
        call = _Call(x.detach(), logits.detach(), pending.target, pending.handed_over)
        logits.register_hook(lambda error: setattr(call, "error", error.detach()))
        self._calls.append(call)

    def labelled(self) -> tuple[Tensor, Tensor] | None:
        """``(inputs (N, ...), labels (N,))`` that the loss was on; None if it was on none of this batch.

        Raises:
            StepError: there are no labels, or they are not those of the loss.
        """
        self._share_labels()
        inputs, labels = [], []
        for call in self._calls:
            error, target = call.error, call.target
            if error is None:
                continue
            if not isinstance(target, Tensor) or target.shape != call.logits.shape[:1] or target.is_floating_point():
                found = f"labels of shape {tuple(target.shape)}" if isinstance(target, Tensor) else "no labels"
                raise StepError(f"{found} for logits of shape {tuple(call.logits.shape)}")
            used = error.any(1)  # the loss ignores the others
            if bool(((target < 0) | (target >= error.shape[1]))[used].any()):
                raise StepError(f"labels up to {int(target[used].max())} for {error.shape[1]} classes")
            self._check.see("it", call.logits[used], target[used], error[used], call.handed_over)
            inputs.append(call.input[used])
            labels.append(target[used])
        if len({x.shape[1:] for x in inputs}) > 1:
            raise StepError("inputs of several shapes in one batch")
        return (torch.cat(inputs), torch.cat(labels)) if inputs and sum(map(len, labels)) else None

    def _share_labels(self) -> None:
        """Where a batch was taken in parts, one after the other, each has its part of the labels."""
        first = self._calls[0].target if self._calls else None
        if len(self._calls) < 2 or not isinstance(first, Tensor) or first.ndim != 1 or len(first) != self.rows:
            return
        if all(call.target is first for call in self._calls):
            for call, part in zip(self._calls, first.split([len(call.input) for call in self._calls]), strict=True):
                call.target = part
