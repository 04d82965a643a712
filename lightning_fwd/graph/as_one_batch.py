"""Batch norm and dropout of the user's own modules, over the batch of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .across_ranks import mean, ranks, share, whole_shape


class AsOneBatch(TorchFunctionMode):
    """Inside, batch norm in training mode normalises by the samples of all ranks, and dropout drops what one process would.

    It stands in for the functions and not for modules, so it reaches norms with a forward of their own (timm's ``BatchNormAct2d``). What
    calls torch's kernels directly (dropout inside attention, stochastic depth by ``bernoulli_``) stays each rank's own.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        stand_in = _STAND_INS.get(func)
        return func(*args, **(kwargs or {})) if stand_in is None else stand_in(func, *args, **(kwargs or {}))


def _batch_norm(
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`F.batch_norm`, its mean and variance those of all ranks (which have batches of one size)."""
    if not training:
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    dims, shape = [0, *range(2, input.ndim)], [1, -1, *[1] * (input.ndim - 2)]
    count = input.numel() // input.shape[1] * ranks().size
    if count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.size()}")
    x = input if input.dtype == torch.float64 else input.float()
    centre = mean(x.mean(dims, keepdim=True))
    centred = x - centre
    var = mean(centred.square().mean(dims, keepdim=True))
    y = centred * torch.rsqrt(var + eps)
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    with torch.no_grad():
        for running, new in ((running_mean, centre), (running_var, var * (count / (count - 1)))):
            if running is not None:
                running.mul_(1 - momentum).add_(new.flatten(), alpha=momentum)
    return y.to(input.dtype)


def _dropout(func: Callable, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Inverted dropout by the mask that one process draws for the whole batch, of which each rank takes its samples' part."""
    if not training or not 0.0 < p < 1.0 or not input.ndim:
        return func(input, p, training, inplace)
    mask = share(func(input.detach().new_ones(whole_shape(input.shape)), p, True))
    return input.mul_(mask) if inplace else input * mask


_STAND_INS: dict[Callable, Callable] = {
    F.batch_norm: _batch_norm,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _dropout),
}
