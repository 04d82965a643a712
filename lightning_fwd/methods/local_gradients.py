"""Backpropagation inside one block."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..graph.gradients import gradients
from ..graph.phase import is_traced, phase
from .base import Update, Updates

WAIT = 1 << 14  #: values of activations that wait at most; a block of more goes at once, and its graph with it


def local_gradients(parameters: Mapping[str, Tensor], output: Tensor, error: Tensor | None = None) -> Updates:
    """Updates of all parameters (a block's, the model's) that a scalar loss depends on, or an output ``(B, ...)`` with the error there."""
    if parameters and output.requires_grad:
        with phase("backward"):
            grads, owned = gradients(output, list(parameters.values()), error)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                yield Update(name, parameter, grad, fresh=owned)


class Together:
    """:func:`local_gradients` of blocks that no gradient passes between, by one call of autograd's engine where they are small.

    On the host the start of a call takes longer than a small block's own backward. A traced step, which a device runs, and a block of many
    activations go one by one: there it is the memory that counts.

    Args:
        wait: whether they wait at all.
    """

    def __init__(self, wait: bool = True) -> None:
        self._wait = wait
        self._outputs: list[Tensor] = []
        self._errors: list[Tensor | None] = []
        self._parameters: dict[str, Tensor] = {}
        self._held = 0

    def add(self, parameters: Mapping[str, Tensor], output: Tensor, error: Tensor | None, h: Tensor) -> Updates:
        """The updates that do not wait.

        Args:
            h: the block's activation, by whose size it waits or does not.
        """
        if not self._wait or is_traced() or h.numel() > WAIT:
            yield from local_gradients(parameters, output, error)
        elif parameters and output.requires_grad:
            known = self._parameters.values()
            tied = any(p is other for p in parameters.values() for other in known)  # each use of it is an update
            if tied or self._held + h.numel() > WAIT:
                yield from self.rest()
            self._held += h.numel()
            self._outputs.append(output)
            self._errors.append(error)
            self._parameters.update(parameters)

    def rest(self) -> Updates:
        """Those that have waited."""
        if not self._outputs:
            return
        grads, owned = gradients(self._outputs, list(self._parameters.values()), self._errors)
        parameters = self._parameters
        self._outputs, self._errors, self._parameters, self._held = [], [], {}, 0
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                yield Update(name, parameter, grad, fresh=owned)
