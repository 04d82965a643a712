"""Backpropagation inside one block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ..graph.gradients import gradients
from ..graph.phase import is_traced, phase
from .base import Update

WAIT = 1 << 14  #: values of activations that wait at most; a block of more goes at once, and its graph with it


def is_small(values: int) -> bool:
    """Whether a step that holds so many values of activations is quicker as a whole than block by block; a traced one shows its blocks."""
    return values <= WAIT and not is_traced()


def local_gradients(parameters: Mapping[str, Tensor], output: Tensor, error: Tensor | None = None) -> list[Update]:
    """Updates of all parameters (a block's, the model's) that a scalar loss depends on, or an output ``(B, ...)`` with the error there."""
    if not (parameters and output.requires_grad):
        return []
    with phase("backward"):
        return updates_of(parameters, output, error)


def updates_of(parameters: Mapping[str, Tensor], output: Tensor | Sequence[Tensor], error: Tensor | None | Sequence) -> list[Update]:
    """One for each parameter that has a gradient (:func:`lightning_fwd.graph.gradients.gradients`)."""
    grads, owned = gradients(output, list(parameters.values()), error)
    known = zip(parameters.items(), grads, strict=True)
    return [Update(name, parameter, grad, None, None, owned) for (name, parameter), grad in known if grad is not None]


class Together:
    """:func:`local_gradients` of blocks that no gradient passes between, by one call of autograd's engine where they are small.

    On the host the start of a call takes longer than a small block's own backward. A traced step, which a device runs, and a block of many
    activations go one by one: there it is the memory that counts.

    Args:
        wait: whether they wait at all.
    """

    def __init__(self, wait: bool = True) -> None:
        self._wait = wait and not is_traced()
        self._outputs: list[Tensor] = []
        self._errors: list[Tensor | None] = []
        self._parameters: dict[str, Tensor] = {}
        self._ids: set[int] = set()
        self._held = 0

    def add(self, parameters: Mapping[str, Tensor], output: Tensor, error: Tensor | None, h: Tensor) -> Iterable[Update]:
        """The updates that do not wait.

        Args:
            h: the block's activation, by whose size it waits or does not.
        """
        size = h.numel()
        if not self._wait or size > WAIT:
            return local_gradients(parameters, output, error)
        if not (parameters and output.requires_grad):
            return ()
        tied = not self._ids.isdisjoint(ids := [*map(id, parameters.values())])  # each use of a parameter is an update
        due = self.rest() if tied or self._held + size > WAIT else ()
        self._held += size
        self._outputs.append(output)
        self._errors.append(error)
        self._parameters.update(parameters)
        self._ids.update(ids)
        return due

    def rest(self) -> Iterable[Update]:
        """Those that have waited."""
        if not self._outputs:
            return ()
        updates = updates_of(self._parameters, self._outputs, self._errors)
        self._outputs, self._errors, self._parameters, self._held = [], [], {}, 0
        self._ids.clear()
        return updates
