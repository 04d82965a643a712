"""Gradients that belong to whoever asked for them, without a copy of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .engine import accumulate_into

_PLAIN = (nn.Parameter, Tensor)


def gradients(
    output: Tensor | Sequence[Tensor], tensors: Sequence[Tensor], error: Tensor | Sequence[Tensor] | None = None
) -> tuple[list[Tensor | None], bool]:
    """As ``torch.autograd.grad``: gradients of ``output`` (or the sum over several) weighted by ``error``; None where nothing depends on a
    tensor.

    What ``torch.autograd.grad`` returns may share its storage: with another gradient (the two of a sum), with ``error``, with what a hook
    has kept.
    Autograd itself knows, by counting references, and copies just these where it accumulates into an empty ``.grad``: so it is let do that.

    Returns:
        the gradients, and whether nothing else holds them. Not so of what is traced, and of parameters whose hook waits for ``.grad``.
    """
    before = []
    for t in tensors:
        if type(t) not in _PLAIN or not t.is_leaf or t._post_accumulate_grad_hooks:
            return list(torch.autograd.grad(output, tensors, error, allow_unused=True)), False
        before.append(t.grad)
    for t, grad in zip(tensors, before, strict=True):
        if grad is not None:
            t.grad = None
    try:
        outputs = (output,) if isinstance(output, Tensor) else output
        accumulate_into(outputs, tensors, [error] * len(outputs) if error is None or isinstance(error, Tensor) else error)
        return [t.grad for t in tensors], True
    finally:
        for t, grad in zip(tensors, before, strict=True):
            t.grad = grad
