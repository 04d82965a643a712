"""Backpropagation inside one block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph.phase import phase
from .base import Update, Updates


def local_gradients(parameters: dict[str, nn.Parameter], output: Tensor, error: Tensor | None = None) -> Updates:
    """Updates of one block's parameters: from its scalar loss, or from its output and the error there."""
    if parameters and output.requires_grad:
        with phase("backward"):
            grads = torch.autograd.grad(output, list(parameters.values()), error, allow_unused=True)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                yield Update(name, parameter, grad)
