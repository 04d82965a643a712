"""PEPITA's feedback: the error at the output, projected onto the input by a fixed matrix F.

F is a function of its seed. It is stored as a buffer, or regenerated entry by entry in every step: ``C * n_in`` entries are more than the
weights of a small net (ResNet-8: 30,720), and a microcontroller needs 14 operations for one, ten of them on integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from ...graph.counter_random import OPERATIONS_PER_DRAW, uniform
from ...graph.elementwise_count import count_elementwise
from ...graph.priced_as import PricedAs


def feedback_matrix(seed: int, n_in: int, num_classes: int, bound: float, device: torch.device | None = None) -> Tensor:
    """F ``(n_in, C)``, uniform in ``[-bound, bound)``: entry (i, c) is draw ``i * C + c`` of the counter-based generator."""
    return uniform(seed, (n_in, num_classes), device) * bound


def modulate(x: Tensor, error: Tensor, matrix: Tensor) -> Tensor:
    """``x + F e``: x ``(B, ...)``, error ``(B, C)``, matrix ``(n_in, C)``."""
    return x + (error.to(matrix.dtype) @ matrix.t()).reshape(x.shape).to(x.dtype)


@torch.library.custom_op("lfwd::modulate_from_seed", mutates_args=())
def modulate_from_seed(x: Tensor, error: Tensor, seed: int, bound: float) -> Tensor:
    """:func:`modulate` with F made from its seed on the way. One operation, so that a device needs no buffer for any part of F."""
    return modulate(x, error, feedback_matrix(seed, x[0].numel(), error.shape[1], bound, x.device))


@modulate_from_seed.register_fake
def _shape(x: Tensor, error: Tensor, seed: int, bound: float) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.lfwd.modulate_from_seed, get_raw=True)
def _flop(x: Tensor, error: Tensor, seed: int, bound: float, out_val: Tensor | None = None, **_: object) -> int:
    return 2 * x.numel() * error.shape[1]


@count_elementwise(torch.ops.lfwd.modulate_from_seed)
def _elementwise(x: Tensor, error: Tensor, seed: int, bound: float) -> int:
    """Each entry of F is drawn and scaled once per step; then ``x + F e``."""
    return (OPERATIONS_PER_DRAW + 1) * x[0].numel() * error.shape[1] + x.numel()


class FeedbackProjection(nn.Module):
    """``x + F e``, F ``(n_in, C)`` uniform in ``+-scale * sqrt(6 / n_in)``: ``scale`` times a He-uniform initialisation.

    Args:
        input_shape: of one sample. num_classes: C.
        scale: of F. seed: of F.
        stored: keep F as a buffer; else regenerate it in every step, with the same values.
    """

    priced_as = PricedAs(constants="feedback matrix")

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, scale: float, seed: int, stored: bool = True):
        super().__init__()
        n_in = torch.Size(input_shape).numel()
        self.seed, self.bound = seed, scale * (6.0 / n_in) ** 0.5
        self.register_buffer("matrix", feedback_matrix(seed, n_in, num_classes, self.bound) if stored else None)

    def change(self, x: Tensor, error: Tensor, matrix: Tensor | None = None) -> Tensor:
        """``F e`` alone, in the shape of x."""
        if matrix is None and self.matrix is None:
            return modulate_from_seed(torch.zeros_like(x), error, self.seed, self.bound)
        matrix = self.matrix if matrix is None else matrix
        return (error.to(matrix.dtype) @ matrix.t()).reshape(x.shape).to(x.dtype)

    def forward(self, x: Tensor, error: Tensor, matrix: Tensor | None = None) -> Tensor:
        """``matrix``: in the place of F, for a step that has just mirrored it."""
        if matrix is None and self.matrix is None:
            return modulate_from_seed(x, error, self.seed, self.bound)
        return modulate(x, error, self.matrix if matrix is None else matrix)
