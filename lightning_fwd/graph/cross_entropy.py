"""Cross-entropy whose gradient is one node of a traced step, ``softmax_error``, inside :func:`whole_operations`.

In float it is :func:`torch.nn.functional.cross_entropy`, bit for bit. A step that is lowered to integers needs the error ``p - y`` as one
operation, not as the dozen that autograd makes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from .whole import is_whole


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of ``-log softmax(logits)[target]``; logits ``(B, C)``, target ``(B,)`` class indices."""
    return _CrossEntropy.apply(logits, target) if is_whole() else F.cross_entropy(logits, target)


@custom_op("lfwd::softmax_error", mutates_args=())
def softmax_error(logits: Tensor, target: Tensor) -> Tensor:
    """``softmax(logits) - one_hot(target)`` ``(B, C)``: the gradient of the summed cross-entropy."""
    return logits.softmax(1) - F.one_hot(target, logits.shape[1])


@softmax_error.register_fake
def _(logits: Tensor, target: Tensor) -> Tensor:
    return torch.empty_like(logits)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(logits, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, target = ctx.saved_tensors
        return softmax_error(logits, target) * (grad / len(logits)), None
