"""Batch norm and dropout of the user's own modules, over the batch of all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .across_ranks import mean, ranks, share, whole_shape


class AsOneBatch(TorchFunctionMode):
    """Inside, batch norm in training mode normalises by the samples of all ranks, and dropout drops what one process would.

    It stands in for the functions and not for modules, so it reaches norms with a forward of their own (timm's ``BatchNormAct2d``), and
    dropout inside attention. What calls torch's kernels directly (dropout between recurrent layers, stochastic depth by ``bernoulli_``)
    stays each rank's own.
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


def _attention(
    func: Callable,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """:func:`F.scaled_dot_product_attention`, written out where it drops weights: its kernel draws inside."""
    if not dropout_p:
        return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return _dropout(F.dropout, scores.softmax(-1), dropout_p) @ value


def _several_heads(func: FunctionType, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """:func:`F.multi_head_attention_forward`: torch's own code, its names for dropout and attention leading here."""
    heads = kwargs["num_heads"] if "num_heads" in kwargs else args[4]

    def dropout(weights: Tensor, p: float) -> Tensor:  # (B * heads, L, S): a sample's rows lie together
        return _dropout(F.dropout, weights.unflatten(0, (-1, heads)), p).flatten(0, 1)

    here = {"dropout": dropout, "scaled_dot_product_attention": partial(_attention, F.scaled_dot_product_attention)}
    return FunctionType(func.__code__, {**func.__globals__, **here}, argdefs=func.__defaults__)(*args, **kwargs)


_STAND_INS: dict[Callable, Callable] = {
    F.batch_norm: _batch_norm,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _several_heads,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _dropout),
}
