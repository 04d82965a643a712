"""One batch spread over processes: what a step must know of the other ranks' samples to be the step of one process with all of them.

By default a step is alone, and everything here changes nothing (a traced step is always alone). Inside :func:`together` means, totals and
draws are those of the whole batch. Sample i of rank r is number ``i * size + r`` of the whole batch, as torch's ``DistributedSampler``
deals them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """The processes that step together: how many, and which one this is."""

    rank: int = 0
    size: int = 1


_now = Ranks()


def ranks() -> Ranks:
    """Those of the step that is running."""
    return _now


@contextmanager
def together(those: Ranks) -> Iterator[None]:
    """Inside, a step is one of several ranks, each of which must come here with a batch of the same size."""
    global _now
    before, _now = _now, those
    try:
        yield
    finally:
        _now = before


class _Total(torch.autograd.Function):
    """The sum over all ranks; so is its gradient, for a loss that is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _Total.apply(grad)


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over the ranks; differentiable."""
    return x if _now.size == 1 else _Total.apply(x)


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over the ranks; differentiable."""
    return x if _now.size == 1 else _Total.apply(x) / _now.size


def whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a tensor ``(B, ...)`` of samples, the shape for the samples of all ranks."""
    return (shape[0] * _now.size, *shape[1:]) if shape else ()


def share(whole: Tensor) -> Tensor:
    """This rank's samples of a tensor with a row for each sample of the whole batch."""
    return whole if _now.size == 1 or not whole.ndim else whole[_now.rank :: _now.size]


def gathered(x: Tensor) -> Tensor:
    """The samples ``(B, ...)`` of all ranks in the order of the whole batch ``(size * B, ...)``; no gradient."""
    if _now.size == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(_now.size)]
    distributed.all_gather(parts, x.detach().contiguous())
    return torch.stack(parts, 1).flatten(0, 1)
