"""One bit per activation: all that the backward pass through a ReLU needs to know.

Two operators of the namespace ``lfwd``, so that a traced step shows the packed mask (1/32 of the fp32 activation) and a device can run each
as
one loop: bit ``i % 8`` of byte ``i // 8`` says whether element ``i`` is positive.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from .elementwise_count import count_elementwise

# On a CPU by numpy, which packs about fifty times as fast as the same in torch's operations; elsewhere by those, without a way over the
# host.


def _pack(mask: Tensor) -> Tensor:
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.reshape(-1).numpy(), bitorder="little"))
    return pack_by_torch(mask)


def _unpack(bits: Tensor, count: int) -> Tensor:
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little")).view(torch.bool)
    return unpack_by_torch(bits, count)


def pack_by_torch(mask: Tensor) -> Tensor:
    """A mask of any shape to uint8 ``(ceil(n / 8),)``, on its own device."""
    flags = mask.reshape(-1).to(torch.uint8)
    flags = F.pad(flags, (0, -flags.numel() % 8)).view(-1, 8)
    return (flags << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_by_torch(bits: Tensor, count: int) -> Tensor:
    """The first ``count`` bits as bool ``(count,)``, on their own device."""
    flags = (bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return flags.reshape(-1)[:count].to(torch.bool)


@custom_op("lfwd::positive_bits", mutates_args=())
def positive_bits(x: Tensor) -> Tensor:
    """``x > 0`` packed: any shape to uint8 ``(ceil(n / 8),)``."""
    return _pack(x > 0)


@positive_bits.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((-(-x.numel() // 8),), dtype=torch.uint8)


@count_elementwise(torch.ops.lfwd.positive_bits)
def _(x: Tensor) -> int:
    return 3 * x.numel()  # comparison, shift, union


@custom_op("lfwd::where_bits", mutates_args=())
def where_bits(grad: Tensor, bits: Tensor) -> Tensor:
    """``grad`` where its bit is set, else 0; same shape, contiguous."""
    return torch.where(_unpack(bits, grad.numel()).reshape(grad.shape), grad, 0.0).contiguous()


@where_bits.register_fake
def _(grad: Tensor, bits: Tensor) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@count_elementwise(torch.ops.lfwd.where_bits)
def _(grad: Tensor, bits: Tensor) -> int:
    return 3 * grad.numel()  # shift, intersection, choice
