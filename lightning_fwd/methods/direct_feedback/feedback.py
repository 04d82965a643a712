"""The fixed matrices that carry the error from the output to each block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...graph.counter_random import uniform


class BlockFeedback(nn.Module):
    """``B e``: the error ``(N, C)`` at the logits as an error at a block's output ``(N, *shape)``.

    Args:
        shape: of one sample's output. matrix: B, ``(rows, C)``; rows are all values of the output, or its units, each of which spreads its
            error evenly over its positions (what the Jacobian of a global average does).
        units_last: whether units lie in the last dimension (tokens), else in the first (channels).
    """

    def __init__(self, shape: Sequence[int], matrix: Tensor, units_last: bool):
        super().__init__()
        self.shape, self.units_last = tuple(shape), units_last
        self.register_buffer("matrix", matrix)

    @property
    def positions(self) -> int:
        """How many values share a row of B."""
        return math.prod(self.shape) // len(self.matrix)

    def forward(self, error: Tensor, matrix: Tensor | None = None) -> Tensor:
        """``matrix``: in the place of B, for a step that has just mirrored it."""
        b = self.matrix if matrix is None else matrix
        delta = error.to(b.dtype) @ b.t()
        if self.positions == 1:
            return delta.reshape(-1, *self.shape)
        spread = [1] * (len(self.shape) - 1)
        sizes = [-1, *spread, b.shape[0]] if self.units_last else [-1, b.shape[0], *spread]
        return (delta / self.positions).reshape(sizes) * torch.ones((1, *self.shape), dtype=b.dtype, device=b.device)

    def rows_of(self, jacobian: Tensor) -> Tensor:
        """A matrix over all values of the output ``(n, C)`` summed to the rows of B."""
        if self.positions == 1:
            return jacobian
        rows = len(self.matrix)
        by_unit = jacobian.reshape(-1, rows, jacobian.shape[1]) if self.units_last else jacobian.reshape(rows, -1, jacobian.shape[1])
        return by_unit.sum(0 if self.units_last else 1)


def random_matrices(rows: Sequence[int], num_classes: int, scale: float, seed: int) -> list[Tensor]:
    """One matrix ``(n, C)`` per block, uniform in ``+-scale / sqrt(n)`` as a last layer of n inputs is drawn; one window of draws for all
    of them."""
    draws = uniform(seed, (sum(rows) * num_classes,)).split([n * num_classes for n in rows])
    return [d.reshape(n, num_classes) * (scale / n**0.5) for d, n in zip(draws, rows, strict=True)]
