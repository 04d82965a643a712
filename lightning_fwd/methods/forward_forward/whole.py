"""Forward-Forward's arithmetic as operators of the namespace ``lfwd``: what a step that is lowered to integers sees of it.

The same values as :mod:`.goodness`, :mod:`.label_embedding` and :func:`lightning_fwd.graph.counter_random.wrong_labels`, each as one node.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from ...graph.counter_random import wrong_labels


@custom_op("lfwd::sample_norm", mutates_args=())
def sample_norm(h: Tensor) -> Tensor:
    """Each sample ``(B, ...)`` divided by its root mean square."""
    return h / (h.square().mean(list(range(1, h.ndim)), keepdim=True).sqrt() + 1e-8)


@sample_norm.register_fake
def _(h: Tensor) -> Tensor:
    return torch.empty_like(h)


@custom_op("lfwd::contrast_error", mutates_args=())
def contrast_error(h: Tensor, threshold: float, per_square: float, sharpness: float, symmetric: bool) -> Tensor:
    """``p h`` of activations ``h (2B, ...)``, positive samples first: the gradient of the summed contrast, but for a factor.

    Goodness is ``per_square`` times the sum of a sample's squares, its margin m ``sharpness * (goodness - threshold)``. p is
    ``-sigmoid(-m)`` of a positive sample and ``sigmoid(m)`` of a negative one; ``symmetric``: both of the pair's
    difference, ``-+sigmoid(m_neg - m_pos)``.
    """
    goodness = h.flatten(1).square().sum(1) * per_square
    positive, negative = ((goodness - threshold) * sharpness).chunk(2)
    p = [torch.sigmoid(negative - positive)] * 2 if symmetric else [torch.sigmoid(-positive), torch.sigmoid(negative)]
    return torch.cat([-p[0], p[1]]).reshape(-1, *[1] * (h.ndim - 1)) * h


@contrast_error.register_fake
def _(h: Tensor, threshold: float, per_square: float, sharpness: float, symmetric: bool) -> Tensor:
    return torch.empty_like(h)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor, threshold: float, per_square: float, sharpness: float, symmetric: bool) -> Tensor:
        ctx.save_for_backward(h)
        ctx.settings = threshold, per_square, sharpness, symmetric
        return h.new_zeros(())

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (h,), (_, per_square, sharpness, _) = ctx.saved_tensors, ctx.settings
        return contrast_error(h, *ctx.settings) * (grad * (4 * per_square * sharpness / len(h))), None, None, None, None


def contrast_of(h: Tensor, threshold: float, reduction: str, sharpness: float, symmetric: bool) -> Tensor:
    """A scalar whose gradient is that of the contrast of ``h (2B, ...)``; its value, which nothing learns from, is 0."""
    per_square = 1.0 / h[0].numel() if reduction == "mean" else 1.0
    return _Contrast.apply(h, threshold, per_square, sharpness, symmetric)


@custom_op("lfwd::wrong_labels", mutates_args=())
def drawn_labels(target: Tensor, counter: Tensor, steps: int, seed: int, num_classes: int) -> Tensor:
    """:func:`wrong_labels` of the seed ``counter * steps + seed``."""
    return wrong_labels(target, num_classes, counter * steps + seed)


@drawn_labels.register_fake
def _(target: Tensor, counter: Tensor, steps: int, seed: int, num_classes: int) -> Tensor:
    return torch.empty_like(target)


@custom_op("lfwd::one_hot", mutates_args=())
def one_hot(labels: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """``(B, C)`` in the type of ``like``."""
    return F.one_hot(labels, num_classes).to(like.dtype)


@one_hot.register_fake
def _(labels: Tensor, num_classes: int, like: Tensor) -> Tensor:
    return like.new_empty((labels.shape[0], num_classes))


@custom_op("lfwd::label_overlay", mutates_args=())
def label_overlay(x: Tensor, label: Tensor, scale: float) -> Tensor:
    """The label's ``(kB, C)`` weights times ``scale``, written over the first C values of the samples ``(B, ...)``, k times over."""
    rest = x.flatten(1)[:, label.shape[1] :].repeat(label.shape[0] // x.shape[0], 1)
    return torch.cat([label * scale, rest], 1).reshape(-1, *x.shape[1:])


@label_overlay.register_fake
def _(x: Tensor, label: Tensor, scale: float) -> Tensor:
    return x.new_empty((label.shape[0], *x.shape[1:]))
