"""Backpropagation inside one block."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..graph.gradients import gradients
from ..graph.phase import phase
from .base import Update, Updates


def local_gradients(parameters: Mapping[str, Tensor], output: Tensor, error: Tensor | None = None) -> Updates:
    """Updates of all parameters (a block's, the model's) that a scalar loss depends on, or an output ``(B, ...)`` with the error there."""
    if parameters and output.requires_grad:
        with phase("backward"):
            grads, owned = gradients(output, list(parameters.values()), error)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                yield Update(name, parameter, grad, fresh=owned)
