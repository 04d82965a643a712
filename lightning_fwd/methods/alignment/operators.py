"""What sets a layer right as operators of the namespace ``lfwd``: in the graph of a round's end each is one node, on a device one kernel.

From sums in float; inside they compute in double, the kernels in float.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from .moments import mean_and_covariance
from .source import covariance_of
from .transport import fold, partial, transport


@custom_op("lfwd::transport", mutates_args=())
def transport_of_sums(
    total: Tensor, products: Tensor, count: Tensor, deviation: Tensor, correlation: Tensor | None, floor: float, strength: float
) -> Tensor:
    """``strength`` of the map that gives what was summed the source's covariance: ``(d, d)``, or factors ``(d,)``.

    Args:
        total, products, count: of :class:`.moments.Moments`. deviation, correlation: of :func:`.source.read_moments`.
    """
    _, spread = mean_and_covariance(torch.zeros_like(total), total, products, count)
    home = covariance_of(deviation, correlation) if products.ndim == 2 else deviation.double().square()
    return partial(transport(home, spread, floor), strength).to(total.dtype)


@transport_of_sums.register_fake
def _(total: Tensor, products: Tensor, *_: object) -> Tensor:
    return torch.empty_like(products)


@custom_op("lfwd::fold", mutates_args=())
def folded(weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """The weight of a layer that reads ``T x`` where it read x, see :func:`.transport.fold`."""
    return fold(weight.double(), matrix.double(), groups).to(weight.dtype)


@folded.register_fake
def _(weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    return torch.empty_like(weight)
