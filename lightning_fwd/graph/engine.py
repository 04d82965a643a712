"""Autograd's engine without what ``torch.autograd.grad`` and ``backward`` ask first of whatever a user may give them.

Of a small network these questions take a third of the call, and a step of a rule makes several calls. Only plain tensors come here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward


def is_plain(output: object, error: object) -> bool:
    """Whether a call for the gradient of ``output``, given the ``error`` there, needs none of these questions."""
    if type(output) is not Tensor:
        return False
    return output.ndim == 0 if error is None else type(error) is Tensor and error.shape == output.shape


def gradient_of(output: Tensor, tensors: Sequence[Tensor], error: Tensor | None, keep: bool) -> tuple[Tensor | None, ...]:
    """As ``torch.autograd.grad(output, tensors, error, retain_graph=keep, allow_unused=True)``."""
    if not is_plain(output, error):
        return torch.autograd.grad(output, tensors, error, retain_graph=keep, allow_unused=True)
    error = torch.ones_like(output) if error is None else error
    return _engine_run_backward((output,), (error,), keep, False, tuple(tensors), allow_unreachable=True, accumulate_grad=False)


def accumulate_into(output: Tensor, tensors: Sequence[Tensor], error: Tensor | None) -> None:
    """As ``torch.autograd.backward(output, error, inputs=tensors)``."""
    if not is_plain(output, error):
        return torch.autograd.backward(output, error, inputs=tensors)
    error = torch.ones_like(output) if error is None else error
    _engine_run_backward((output,), (error,), False, False, tuple(tensors), allow_unreachable=True, accumulate_grad=True)
