"""Autograd's engine without what ``torch.autograd.grad`` and ``backward`` ask first of whatever a user may give them.

Of a small network these questions take a third of the call, and a step of a rule makes several calls. Only plain tensors come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import Variable
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
    return _run(output)((output,), (error,), keep, False, tuple(tensors), allow_unreachable=True, accumulate_grad=False)


def accumulate_into(outputs: Sequence[Tensor], tensors: Sequence[Tensor], errors: Sequence[Tensor | None]) -> None:
    """As ``torch.autograd.backward(outputs, errors, inputs=tensors)``."""
    if not tensors or not all(map(is_plain, outputs, errors)):
        return torch.autograd.backward(outputs, errors, inputs=tensors)
    given = tuple([torch.ones_like(o) if e is None else e for o, e in zip(outputs, errors, strict=True)])
    _run(outputs[0])(tuple(outputs), given, False, False, tuple(tensors), allow_unreachable=True, accumulate_grad=True)


def _run(output: Tensor) -> Callable[..., tuple[Tensor | None, ...]]:
    """The engine's own function; elsewhere than on a CPU, where threads of its own work, with what torch hands on to these."""
    return Variable._execution_engine.run_backward if output.is_cpu else _engine_run_backward
