"""The backward pass in integers: the error of the loss, through layers, ReLU and pooling, to what the updates take."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from ..graph import cross_entropy  # noqa: F401  (defines lfwd::softmax_error)
from .forward_rules import convolution_back, linear, weight_of
from .goodness_rules import label_rows
from .lowering import Lowering, lfwd, rule
from .softmax import ERROR_EXPONENT
from .values import Gradient, NotPositive, OneHot, Transposed, Value

aten = torch.ops.aten


@rule(torch.ops.lfwd.softmax_error)
def softmax_error(low: Lowering, node: fx.Node) -> Value:
    logits, target = node.args
    value = low.values[logits]
    if not isinstance(value, Value) or value.kind != "sum" or value.factor != 1.0:
        raise low.refuse(node, "its logits are no sums of a layer")
    if node.meta["val"].shape[1] > 256:
        raise low.refuse(node, f"{node.meta['val'].shape[1]} classes, whose errors of 16 bits could overflow 32 bits behind the last layer")
    e = low.emit(lfwd.int_softmax_error, value.node, low.exponent_node(value.exponent), low.values[target])
    return Value(e, ERROR_EXPONENT, "error")


@rule(aten.mm)
def mm(low: Lowering, node: fx.Node) -> object:
    a, b = node.args
    left, right = low.values[a], low.values[b]
    if isinstance(left, OneHot | float):
        return label_rows(low, node, a, b)
    if isinstance(left, Transposed) and isinstance(left.of, fx.Node):  # e^T x
        return Gradient(low.error(left.of), low.activation(b))
    if isinstance(right, Transposed):
        weight = weight_of(low, node, b)
        if not isinstance(left, Value) or not (left.is_error or node.meta["phase"] == "projection"):
            return linear(low, node, a, weight, None)
        e, exponents = low.error(a), low.weight_exponents(low.names[weight.name])
        acc = low.emit(lfwd.int_linear_error, e.node, low.values[weight], exponents)
        return Value(acc, low.plus(e.exponent, exponents), "sum", e.factor, back=True)
    if b.op == "placeholder" and low.names[b.name] in low.source.state:
        e, exponents = low.error(a), low.weight_exponents(low.names[b.name])
        acc = low.emit(lfwd.int_linear_back, e.node, right, exponents)
        return Value(acc, low.plus(e.exponent, exponents), "sum", e.factor, back=True)
    raise low.refuse(node, "a matrix product of two values that are no weights")


@rule(aten.convolution_backward)
def convolution_backward(low: Lowering, node: fx.Node) -> tuple:
    grad, x, weight, _, stride, padding, dilation, transposed, _, groups, _ = node.args
    if transposed or len(stride) > 2:
        raise low.refuse(node, "a transposed or 3-d convolution")
    e, geometry = low.error(grad), (list(stride), list(padding), list(dilation), groups)

    def back() -> Value:
        return convolution_back(low, next(u for u in node.users if u.args[1] == 0), grad, weight, geometry)

    return back, lambda: Gradient(e, low.activation(x), geometry), Gradient(e)


@rule(aten.sum)
def total(low: Lowering, node: fx.Node) -> Gradient:
    dims, rank = [d % node.args[0].meta["val"].ndim for d in node.args[1]], node.args[0].meta["val"].ndim
    if sorted(dims) != [0, *range(2, rank)]:
        raise low.refuse(node, "a sum over other dimensions than those of a bias's gradient")
    return Gradient(low.error(node.args[0]))


@rule(aten.le)
def not_positive(low: Lowering, node: fx.Node) -> NotPositive:
    if node.args[1] != 0:
        raise low.refuse(node, f"a comparison with {node.args[1]}", "use ReLU")
    return NotPositive(low.activation(node.args[0]))


@rule(aten.where)
def relu_backward(low: Lowering, node: fx.Node) -> Value:
    condition, zero, grad = (low.values[n] for n in node.args)
    if not isinstance(condition, NotPositive) or zero != 0.0:
        raise low.refuse(node, "a choice between two values that is no ReLU's gradient")
    return masked(low, node.args[2], condition.of)


@rule(torch.ops.lfwd.where_bits)
def where_bits(low: Lowering, node: fx.Node) -> Value:
    return masked(low, node.args[0], low.values[node.args[1]])


def masked(low: Lowering, grad: fx.Node, activation: Value) -> Value:
    """An error behind a ReLU: a sum is masked when it is narrowed, without a pass of its own."""
    value = low.values[grad]
    if value.kind == "error":
        return value.on(low.emit(lfwd.int_mask, value.node, activation.node))
    if value.mask is not None:
        value = low.error(grad)
        return value.on(low.emit(lfwd.int_mask, value.node, activation.node))
    return replace(value, mask=activation.node)


@rule(aten.expand)
def expand(low: Lowering, node: fx.Node) -> Value:
    e = low.error(node.args[0])
    return e.on(low.emit(aten.expand.default, e.node, list(node.args[1])))
