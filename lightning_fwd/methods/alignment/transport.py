"""The map that gives a Gaussian the mean and covariance of another one, and how it goes into a layer's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def transport(source: Tensor, target: Tensor, floor: float) -> Tensor:
    """The optimal-transport map ``T`` from ``N(., target)`` to ``N(., source)``: ``T target T = source``, symmetric, the least movement.

    ``T = S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2`` with S the target's and R the source's covariance (Dowson and Landau 1982; Peyré and Cuturi,
    "Computational optimal transport", 2019, eq. 2.41).

    Args:
        source, target: covariances ``(d, d)``, or variances ``(d,)`` of values that are mapped one by one.
        floor: eigenvalues below this share of the target's largest count as that share: directions in which the target hardly varies would
            be stretched without bound. Of variances, a hundredth of it.

    Returns:
        ``(d, d)``, or the factors ``(d,)``.
    """
    if source.ndim == 1:
        source, target = (v.clamp_min(0.01 * floor * v.max().clamp_min(1e-30)) for v in (source, target))
        return (source / target).sqrt()
    root, inverse = _power(target, 0.5, floor), _power(target, -0.5, floor)
    return inverse @ _power(root @ source @ root, 0.5, floor**2) @ inverse


def _power(matrix: Tensor, exponent: float, floor: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(floor * values.max().clamp_min(1e-30))
    return (vectors * values**exponent) @ vectors.t()


def partial(full: Tensor, strength: float) -> Tensor:
    """``strength T + (1 - strength) I``."""
    identity = torch.ones_like(full) if full.ndim == 1 else torch.eye(len(full), dtype=full.dtype, device=full.device)
    return strength * full + (1.0 - strength) * identity


def fold(layer: nn.Module, kind: str, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and added bias of the layer that reads ``T x + shift`` where it read x: ``W' = W T``, ``b' - b = W shift``.

    The bias holds where the kernel lies on the input as a whole; at a border padded with zeros the shift is of the kernel's part on it
    only.

    Args:
        kind: ``"patches"`` (T over whole patches), ``"channels"`` (over the input channels), ``"single"`` (a factor per input channel),
            ``"features"`` (over what a linear layer reads).
        matrix: T ``(d, d)`` or ``(d,)``. shift: ``(d,)``.

    Returns:
        weight as the layer's, bias ``(out,)``, both in T's precision.
    """
    weight = layer.weight.detach().to(matrix.dtype)
    if kind == "patches":
        rows = weight.flatten(1)
        return (rows @ matrix).reshape(weight.shape), rows @ shift
    if kind == "features":
        return weight @ matrix, weight @ shift
    sums = weight.flatten(2).sum(2)  # (out, in per group)
    if kind == "channels":
        return torch.einsum("oi...,ij->oj...", weight, matrix), sums @ shift
    factors, shifts = (_by_output(v, layer) for v in (matrix, shift))
    return weight * factors.reshape(*factors.shape, *[1] * (weight.ndim - 2)), (sums * shifts).sum(1)


def _by_output(values: Tensor, layer: nn.Module) -> Tensor:
    """One value per input channel ``(in,)`` as each output channel meets them ``(out, in per group)``."""
    return values.reshape(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
