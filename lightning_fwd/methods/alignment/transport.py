"""The map that gives a Gaussian the mean and covariance of another one, and how it goes into a layer's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .places import Kind


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


def fold(weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """Weight of the layer that reads ``T x`` where it read x: ``W' = W T``.

    Args:
        weight: ``(out, in per group, ...)``. groups: of the layer; 1 of a linear one.
        matrix: T ``(d, d)`` over whole patches, the input channels, or the features, told apart by d; factors ``(in,)`` of each channel.
    """
    if matrix.ndim == 1:
        factors = by_output(matrix, weight, groups)
        return weight * factors.reshape(*factors.shape, *[1] * (weight.ndim - 2))
    if len(matrix) == weight[0].numel():
        return (weight.flatten(1) @ matrix).reshape(weight.shape)
    return torch.einsum("oi...,ij->oj...", weight, matrix)


def added_bias(weight: Tensor, shift: Tensor, kind: Kind, groups: int) -> Tensor:
    """What ``W shift`` adds to the bias ``(out,)`` of the layer that reads ``T x + shift (d,)``, W being the weight before the map.

    It holds where the kernel lies on the input as a whole; at a border padded with zeros the shift is of the kernel's part on it only.
    """
    if kind in ("patches", "features"):
        return (weight.flatten(1) * shift).sum(1)
    shifts = by_output(shift, weight, groups) if kind == "single" else shift
    return (weight.flatten(2).sum(2) * shifts).sum(1)


def by_output(values: Tensor, weight: Tensor, groups: int) -> Tensor:
    """One value per input channel ``(in,)`` as each output channel meets them ``(out, in per group)``."""
    each = len(weight) // groups
    return values.reshape(groups, 1, -1).expand(groups, each, values.numel() // groups).reshape(len(weight), -1)
