"""Forward-Forward in integers: how its whole operations (``lightning_fwd/methods/forward_forward/whole.py``) are lowered."""

from __future__ import annotations

import math

from torch import fx

from . import goodness
from .arithmetic import as_multiplier
from .lowering import Lowering, lfwd, rule
from .softmax import ERROR_EXPONENT, in_powers
from .values import OneHot, Value


def _squared(low: Lowering, node: fx.Node, h: fx.Node) -> Value:
    """The activation whose squares are summed up per sample."""
    size = math.prod(h.meta["val"].shape[1:])
    if size > goodness.SQUARES:
        raise low.refuse(node, f"the squares of {size} activations could overflow 32 bits")
    return low.activation(h)


@rule("lfwd::contrast_error")
def contrast_error(low: Lowering, node: fx.Node) -> Value:
    h, threshold, per_square, sharpness, symmetric = node.args
    a = _squared(low, node, h)
    scales = (*as_multiplier(threshold / per_square), *in_powers(sharpness * per_square), symmetric)
    e = low.emit(lfwd.int_contrast_error, a.node, low.exponent_node(a.exponent), *scales)
    return Value(e, low.plus(a.exponent, None, 1, ERROR_EXPONENT), "sum", back=True)


@rule("lfwd::sample_norm")
def sample_norm(low: Lowering, node: fx.Node) -> Value:
    a, size = _squared(low, node, node.args[0]), math.prod(node.meta["val"].shape[1:])
    return Value(low.emit(lfwd.int_sample_norm, a.node), goodness.NORM_EXPONENT, "sum", math.sqrt(size), learned=a.learned)


@rule("lfwd::wrong_labels")
def wrong_labels(low: Lowering, node: fx.Node) -> fx.Node:
    target, _, *numbers = node.args
    return low.emit(lfwd.int_wrong_labels, low.values[target], low.counter(), *numbers)


@rule("lfwd::one_hot")
def one_hot(low: Lowering, node: fx.Node) -> OneHot:
    return OneHot(low.values[node.args[0]])


def _weights(low: Lowering, label: fx.Node) -> tuple[fx.Node | None, float]:
    """Labels and the weight of each: 1 of those given, the same number for all classes of a neutral label."""
    value = low.values[label]
    return (value.labels, 1.0) if isinstance(value, OneHot) else (None, value)


@rule("lfwd::label_overlay")
def label_overlay(low: Lowering, node: fx.Node) -> Value:
    x, label, scale = node.args
    a, (labels, weight) = low.activation(x), _weights(low, label)
    mult, below = as_multiplier(scale * weight)
    return a.on(low.emit(lfwd.int_label_overlay, a.node, low.exponent_node(a.exponent), labels, label.meta["val"].shape[1], mult, below))


def label_rows(low: Lowering, node: fx.Node, label: fx.Node, matrix: fx.Node) -> Value:
    """The product of labels with a matrix ``(C, n)``: its rows."""
    name, (labels, weight) = low.names[matrix.name], _weights(low, label)
    if low.learns(matrix):
        raise low.refuse(node, f"{name}, of which a label chooses a row, learns", "use ForwardForward(label='pattern') or 'overlay'")
    exponents = low.weight_exponents(name)
    rows = low.emit(lfwd.int_label_rows, low.values[matrix], exponents, labels, node.meta["val"].shape[0])
    return Value(rows, low.plus(0, exponents), "sum", weight)
