"""Sums over the positions of many samples, from which mean and covariance follow: a device has no batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...graph import across_ranks
from .places import Reading


class Moments(nn.Module):
    """Sums of one place, in fp32, taken around a centre so that no large numbers cancel.

    Args:
        centre: near the mean ``(d,)``, e.g. the source's.
        full: with all products ``(d, d)``; else the squares ``(d,)``.
        weighted: whether samples count unequally: then ``count`` is a sum of weights.
    """

    def __init__(self, centre: Tensor, full: bool, weighted: bool = False):
        super().__init__()
        size, device = len(centre), centre.device
        self.register_buffer("centre", centre.detach().float().clone())
        self.register_buffer("total", torch.zeros(size, device=device))
        self.register_buffer("products", torch.zeros(*(size, size) if full else (size,), device=device))
        self.register_buffer("count", torch.zeros((), dtype=torch.float32 if weighted else torch.int64, device=device))

    def added(self, x: Tensor, readings: list[Reading], weights: Tensor | None = None) -> dict[str, Tensor]:
        """The sums with more samples ``x (B, C, ...)``, by the name of the buffer; nothing is changed. ``weights (B,)``: how much each
        counts.

        A value of a patch is (channel, place of the kernel), as in the convolution's weight. Its products are made place by place, so that
        the patches of all positions never stand in memory: two readings of the size of x do.
        """
        places = range(len(readings))
        centres = self.centre.reshape(-1, len(readings)).unbind(1)
        around = [lambda k=k: readings[k](x).float() - centres[k] for k in places]
        if weights is None:
            weighed, seen = around, around[0]().shape[0] * across_ranks.ranks().size
        else:
            rows = weights.float().repeat_interleave(around[0]().shape[0] // len(x))[:, None]  # each position as its sample
            weighed, seen = [lambda k=k: around[k]() * rows for k in places], across_ranks.total(rows.sum())
        total = across_ranks.total(torch.stack([weighed[k]().sum(0) for k in places], 1).flatten())
        count = self.count + seen
        if self.products.ndim == 1:
            products = across_ranks.total((weighed[0]() * around[0]()).sum(0))
            return {"total": self.total + total, "products": self.products + products, "count": count}
        blocks = dict[tuple[int, int], Tensor]()
        for a in places:
            one = weighed[a]().t()
            blocks |= {(a, b): one @ around[b]() for b in places[a:]}
        rows_of = [torch.stack([blocks[a, b] if a <= b else blocks[b, a].t() for b in places], -1) for a in places]  # (C, C, K) each
        products = torch.stack(rows_of, 1).flatten(2).flatten(0, 1)  # (C, K, C, K) -> (d, d)
        return {"total": self.total + total, "products": self.products + across_ranks.total(products), "count": count}

    def add(self, x: Tensor, readings: list[Reading]) -> None:
        """Take more samples in."""
        for name, value in self.added(x, readings).items():
            getattr(self, name).copy_(value)


def mean_and_covariance(centre: Tensor, total: Tensor, products: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """From sums around ``centre``, in double precision: mean ``(d,)``, covariance ``(d, d)`` or variance ``(d,)``, of the samples seen."""
    offset = total.double() / count
    outer = offset.outer(offset) if products.ndim == 2 else offset.square()
    return centre.double() + offset, products.double() / count - outer
