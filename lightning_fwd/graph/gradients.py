"""Gradients that belong to whoever asked for them, without a copy of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
    if not all(type(t) in (nn.Parameter, Tensor) and t.is_leaf and not t._post_accumulate_grad_hooks for t in tensors):
        return list(torch.autograd.grad(output, tensors, error, allow_unused=True)), False
    before = [t.grad for t in tensors]
    for t in tensors:
        t.grad = None
    try:
        torch.autograd.backward(output, error, inputs=tensors)
        return [t.grad for t in tensors], True
    finally:
        for t, grad in zip(tensors, before, strict=True):
            t.grad = grad
