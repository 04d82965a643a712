"""Forward-Forward in integers: the error of a contrast of goodness, the norm over a sample, the label in the input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..graph.counter_random import wrong_labels
from .arithmetic import shift
from .operators import operator
from .softmax import exponential

NORM_EXPONENT = 20  #: of a sample divided by its length
SQUARES = (1 << 31) // 127**2  #: activations whose squares sum up to less than 2**31


def _int32_like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int32)


def _squares(h: Tensor) -> Tensor:
    return h.long().flatten(1).square().sum(1)


def _per_sample(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *[1] * (like.ndim - 1))


def sigmoid(distance: Tensor, exponent: Tensor, mult: int, below: int) -> Tensor:
    """Of ``distance * 2**-exponent`` times what ``mult`` and ``below`` say, see :func:`.softmax.exponential`; Q15, 0..32768."""
    u = exponential(distance.abs(), exponent, mult, below)
    total = u + 32768
    small = ((u << 15) + total // 2) // total
    return torch.where(distance < 0, small, 32768 - small)


@operator(
    "int_contrast_error(Tensor h, Tensor exponent, int threshold, int threshold_below, int mult, int below, bool symmetric)", _int32_like
)
def int_contrast_error(h, exponent, threshold, threshold_below, mult, below, symmetric):
    """``p h`` of int8 activations ``(2B, ...)``, positive samples first, at 15 fraction bits more than h; see ``lfwd::contrast_error``.

    The threshold on the sum of squares is ``threshold * 2**-15 * 2**-threshold_below``.
    """
    fine = 2 * exponent.long()
    positive, negative = _squares(h).chunk(2)
    if symmetric:
        p = [sigmoid(negative - positive, fine, mult, below)] * 2
    else:
        theta = shift(torch.tensor(threshold), 15 + threshold_below - fine)
        p = [sigmoid(theta - positive, fine, mult, below), sigmoid(negative - theta, fine, mult, below)]
    return _per_sample(torch.cat([-p[0], p[1]]), h) * h.long()


def _root(x: Tensor) -> Tensor:
    r = x.double().sqrt().floor().long()
    r = torch.where(r * r > x, r - 1, r)
    return torch.where((r + 1) * (r + 1) <= x, r + 1, r)


@operator("int_sample_norm(Tensor h)", _int32_like)
def int_sample_norm(h):
    """Each sample ``(B, ...)`` int8 divided by its Euclidean length, to exponent 20; zeros stay zeros.

    One integer square root of the sum of squares, brought to 31 or 32 bits, and one division per sample.
    """
    squares = _squares(h)
    up = (32 - torch.frexp(squares.double()).exponent.long()) // 2
    reciprocal = (1 << 31) // _root(squares.clamp(min=1) << (2 * up).clamp(max=30)).clamp(min=1)
    return shift(h.long() * _per_sample(reciprocal, h), _per_sample(11 - up, h))


def _labels_like(target: Tensor, *_: object) -> Tensor:
    return torch.empty_like(target)


@operator("int_wrong_labels(Tensor target, Tensor counter, int steps, int seed, int num_classes)", _labels_like)
def int_wrong_labels(target, counter, steps, seed, num_classes):
    """For each label ``(B,)`` another one, a function of the step: ``lfwd::wrong_labels``."""
    return wrong_labels(target, num_classes, counter.reshape(()) * steps + seed)


def _overlaid(x: Tensor, exponent: Tensor, labels: Tensor | None, num_classes: int, mult: int, below: int) -> Tensor:
    return x.new_empty((len(x) if labels is None else len(labels), *x.shape[1:]), dtype=torch.int8)


@operator("int_label_overlay(Tensor x, Tensor exponent, Tensor? labels, int num_classes, int mult, int below)", _overlaid)
def int_label_overlay(x, exponent, labels, num_classes, mult, below):
    """Labels ``(kB,)`` over the first values of int8 samples ``(B, ...)``, k times over: ``mult * 2**-15 * 2**-below`` at the label's
    place, 0 at the others'; without labels at all places. Saturates at 127."""
    one = shift(torch.tensor(mult), 15 + below - exponent.long()).clamp(max=127)
    copies = 1 if labels is None else len(labels) // len(x)
    rows = torch.ones(len(x), num_classes) if labels is None else F.one_hot(labels, num_classes)
    return torch.cat([rows.long() * one, x.long().flatten(1)[:, num_classes:].repeat(copies, 1)], 1)


def _rows_like(weight: Tensor, exponents: Tensor, labels: Tensor | None, batch: int) -> Tensor:
    return weight.new_empty((batch, weight.shape[1]), dtype=torch.int32)


@operator("int_label_rows(Tensor weight, Tensor exponents, Tensor? labels, int batch)", _rows_like)
def int_label_rows(weight, exponents, labels, batch):
    """Rows of a frozen int8 matrix ``(C, n)`` by label, or for each of the batch the sum of all, at the smallest of their exponents."""
    rows = shift(weight.long(), (exponents.long() - exponents.long().min()).reshape(-1, 1))
    return rows.sum(0).expand(batch, -1) if labels is None else rows[labels]


@operator("int_add_sums(Tensor a, Tensor a_exponent, Tensor b, Tensor b_exponent)", _int32_like)
def int_add_sums(a, a_exponent, b, b_exponent):
    """Two sums (int32, below 2**30) at the smaller of their exponents."""
    f = torch.minimum(a_exponent.long(), b_exponent.long())
    return (shift(a.long(), a_exponent.long() - f) + shift(b.long(), b_exponent.long() - f)).clamp(-(1 << 31), (1 << 31) - 1)
