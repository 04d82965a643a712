"""The protocol of one training step: what a learning rule yields, and who takes it.

A rule's ``updates(model, record)`` is a generator. It yields :class:`Update` as soon as one gradient is known, and exactly one
:class:`Logits`; that yield expression evaluates to the error, the gradient of the user's own loss with respect to the logits.
Whoever drives it decides when a gradient dies: the strategy accumulates it into ``p.grad``, the device applies it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StepError
from .phase import is_traced


@dataclass(frozen=True)
class Part:
    """The entries ``index`` (1-d int64) of a tensor along ``dim``: what of a parameter learns."""

    dim: int
    index: Tensor

    def of(self, whole: Tensor) -> Tensor:
        """These entries of a tensor, copied."""
        return whole.index_select(self.dim, self.index)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """The tensor with these entries replaced."""
        return whole.index_copy(self.dim, self.index, part)


@dataclass(slots=True)
class Update:
    """One change that a rule asks for.

    Attributes:
        name: name of the tensor in the rewritten model.
        tensor: the parameter (for ``gradient``) or buffer (for ``value``).
        gradient: descent direction, same shape as the parameter (as its ``part``); the optimizer decides the step.
        value: new content of a buffer that no optimizer owns (running statistics, counters).
        part: what of the parameter the gradient is for; None: all of it. The rest is never computed: its gradient is zero by
            definition, it needs no optimizer state and no writing.
        fresh: whether nothing else holds the gradient's storage, so that it may become ``p.grad`` without a copy: computed out of place, or
            of :func:`lightning_fwd.graph.gradients.gradients`. What ``torch.autograd.grad`` returns may be shared.
        by_hand: whether the rule computed it by arithmetic of its own: the tensor's hooks (``register_hook``), which autograd calls,
            are still to be called.
    """

    name: str
    tensor: Tensor
    gradient: Tensor | None = None
    value: Tensor | None = None
    part: Part | None = None
    fresh: bool = False
    by_hand: bool = False

    def whole_gradient(self) -> Tensor:
        """The gradient in the shape and type of the parameter, zero outside its part; under autocast a rule may compute it in bf16."""
        assert self.gradient is not None, "an update with a value has no gradient"
        gradient = self.gradient if self.gradient.dtype == self.tensor.dtype else self.gradient.to(self.tensor.dtype)
        return gradient if self.part is None else self.part.put(torch.zeros_like(self.tensor), gradient)


@dataclass
class Logits:
    """The step's prediction ``(B, C)``, handed to the user's loss."""

    value: Tensor


@dataclass
class StepRecord:
    """What a step knows.

    Attributes:
        input: ``(B, ...)``.
        target: class indices ``(B,)``, or None where the rule needs no labels.
        loss_scale: factor on the loss beside the batch mean (1 / accumulated batches), for rules with a loss of their own.
        counter: number of this step since the rewrite, a 0-d int64 tensor: the seed of everything random in the step. A step is one
            training forward with its updates; an optimizer step may accumulate several. Settings of rules in steps (``greedy_steps``,
            ``until``, ...) count these.
    """

    input: Tensor
    target: Tensor | None
    loss_scale: float
    counter: Tensor

    def scaled(self, loss: Tensor) -> Tensor:
        """A loss of the rule's own times ``loss_scale``: the loss itself where that is 1, but in a traced step, which takes any."""
        return loss if self.loss_scale == 1.0 and not is_traced() else loss * self.loss_scale


Updates = Generator[Update | Logits, Tensor | None, None]


class Step:
    """Drives one rule through one step: forward until the logits (a leaf for the user's loss), then, given the error, to the end.

    Args:
        autocast: the context in which the forward part runs, for whoever finishes the step.
    """

    logits: Tensor | None
    target: Tensor | None = None  #: labels that the rule learns by, and whether the user handed them over
    handed_over: bool = False
    inputs: tuple[Tensor, Tensor] | None = None  #: the input as it came, with a history of its own, and the leaf that the rule ran on

    def __init__(self, updates: Updates, autocast: Callable[[], AbstractContextManager] = nullcontext):
        self._updates, self._known, self.autocast = updates, [], autocast
        for item in self._updates:
            if isinstance(item, Logits):
                self.logits = item.value.detach().requires_grad_()
                return
            self._known.append(item)
        raise StepError("the rule ended its step without logits", "updates() must yield Logits exactly once")

    def finish(self, error: Tensor) -> Iterator[Update]:
        """All updates of the step; ``error`` is the loss's gradient w.r.t. the logits, ``(B, C)``."""
        yield from self._known
        self._known = []
        try:
            first = self._updates.send(error)
        except StopIteration:
            return
        assert isinstance(first, Update), "a rule yields Logits once"
        yield first
        for item in self._updates:
            assert isinstance(item, Update), "a rule yields Logits once"
            yield item


def _hooked(tensor: Tensor, gradient: Tensor) -> Tensor:
    for hook in list(tensor._backward_hooks.values()):  # type: ignore[union-attr]  # a dict, which the caller has seen
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    return gradient


def accumulate(update: Update) -> None:
    """Add a gradient to ``p.grad``, or store a value, as ``Tensor.backward`` would."""
    if update.value is not None:
        with torch.no_grad():
            update.tensor.copy_(update.value)
        return
    tensor, gradient = update.tensor, update.gradient
    if gradient is None or update.part is not None or gradient.dtype is not tensor.dtype:
        gradient = update.whole_gradient()
    if update.by_hand and tensor._backward_hooks:
        gradient = _hooked(tensor, gradient)
    if tensor.grad is None:
        # Two parameters may be given one storage (the two of a sum, say), which adding and clipping in place would then change twice.
        tensor.grad = gradient.clone() if gradient is update.gradient and not update.fresh else gradient
    else:
        tensor.grad += gradient
