"""The forward pass in integers: layers, ReLU, pooling, residual sums, views."""

from __future__ import annotations

import math
import operator
from dataclasses import replace

import torch
from torch import fx

from ..graph import bit_mask  # noqa: F401  (defines lfwd::positive_bits)
from .lowering import Lowering, lfwd, rule
from .rescale import SUM_FRACTION
from .split import split_sum
from .values import Gradient, Transposed, Value

aten = torch.ops.aten


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


@rule(aten.view, aten._unsafe_view, aten.squeeze, aten.unsqueeze, aten.alias)
def view(low: Lowering, node: fx.Node) -> object:
    value = low.values[node.args[0]]
    if isinstance(value, Gradient | float):
        return value
    if not isinstance(value, Value):
        raise low.refuse(node, "a weight is read in another shape")
    if value.mask is not None:
        value = low.error(node.args[0])
    return value.on(low.emit(aten.view.default, value.node, list(_shape(node))))


@rule(aten.clone)
def clone(low: Lowering, node: fx.Node) -> object:
    value = low.values[node.args[0]]
    return value.on(low.emit(aten.clone.default, value.node)) if value.kind == "error" else value


@rule(aten.permute, aten.t)
def permute(low: Lowering, node: fx.Node) -> Transposed:
    value, dims = low.values[node.args[0]], [d % 2 for d in node.args[1]] if len(_shape(node)) == 2 else None
    if dims != [1, 0]:
        raise low.refuse(node, "dimensions are permuted otherwise than by a transposition")
    return Transposed(node.args[0] if isinstance(value, Value) else value)


def _fits(low: Lowering, node: fx.Node, products: int) -> None:
    if products > 1 << 16:
        raise low.refuse(node, f"{products} products of 8 bits per output could overflow 32 bits")


def linear(low: Lowering, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> Value:
    """``x (B, in)`` times the transposed weight ``(out, in)``; ``weight`` and ``bias`` are the float step's, displaced or as they are."""
    a, (name, values) = low.activation(x), low.weight(weight)
    _fits(low, node, _shape(weight)[1])
    b = None if bias is None else low.values[bias]
    if name in low.split:
        both = split_sum(low, name, a, b, None)
        return Value(*both, "sum", a.factor, learned=a.learned or low.learns(weight))
    exponents = low.weight_exponents(name)
    acc = low.emit(lfwd.int_linear, a.node, values, exponents, b, low.exponent_node(a.exponent))
    learned = a.learned or low.learns(weight) or (bias is not None and low.learns(bias))
    return Value(acc, low.plus(a.exponent, exponents), "sum", a.factor, learned=learned)


def weight_of(low: Lowering, node: fx.Node, permuted: fx.Node) -> fx.Node:
    """The node of a transposed weight, a placeholder or displaced."""
    source = permuted.args[0] if isinstance(low.values.get(permuted), Transposed) else None
    if source is None or low.weight(source) is None:
        raise low.refuse(node, "a matrix product of two values that are no weights")
    return source


@rule(aten.addmm)
def addmm(low: Lowering, node: fx.Node) -> Value:
    bias, x, permuted = node.args[:3]
    return linear(low, node, x, weight_of(low, node, permuted), bias)


@rule(aten.convolution)
def convolution(low: Lowering, node: fx.Node) -> Value:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    if transposed and isinstance(low.values[x], Value) and low.values[x].kind != "activation" and bias is None:
        return convolution_back(low, node, x, weight, (list(stride), list(padding), list(dilation), groups))
    if not transposed and isinstance(low.values[x], Value) and low.values[x].is_error and bias is None and weight.op == "placeholder":
        e, exponents = low.error(x), low.weight_exponents(low.names[weight.name])
        geometry = (list(stride), list(padding), list(dilation), groups)
        acc = low.emit(lfwd.int_conv_error, e.node, low.values[weight], exponents, *geometry)
        return Value(acc, low.plus(e.exponent, exponents), "sum", e.factor, back=True)
    read = low.weight(weight)
    if transposed or len(stride) > 2 or read is None:
        raise low.refuse(node, "a transposed or 3-d convolution, or a weight that is computed")
    _fits(low, node, math.prod(_shape(weight)[1:]))
    a, (name, values) = low.activation(x), read
    b = None if bias is None else low.values[bias]
    geometry = (list(stride), list(padding), list(dilation), groups)
    if name in low.split:
        both = split_sum(low, name, a, b, geometry)
        return Value(*both, "sum", a.factor, learned=a.learned or low.learns(weight) or (bias is not None and low.learns(bias)))
    exponents = low.weight_exponents(name)
    acc = low.emit(lfwd.int_conv, a.node, values, exponents, b, low.exponent_node(a.exponent), *geometry)
    learned = a.learned or low.learns(weight) or (bias is not None and low.learns(bias))
    return Value(acc, low.plus(a.exponent, exponents), "sum", a.factor, learned=learned)


def convolution_back(low: Lowering, node: fx.Node, grad: fx.Node, weight: fx.Node, geometry: tuple) -> Value:
    """The error that a convolution hands to its input, which has the size of ``node``."""
    if weight.op != "placeholder":
        raise low.refuse(node, "the weight is computed")
    e, exponents = low.error(grad), low.weight_exponents(low.names[weight.name])
    acc = low.emit(lfwd.int_conv_back, e.node, low.values[weight], exponents, list(_shape(node)), *geometry)
    return Value(acc, low.plus(e.exponent, exponents), "sum", e.factor, back=True)


@rule(aten.relu)
def relu(low: Lowering, node: fx.Node) -> Value:
    value = low.values[node.args[0]]
    if isinstance(value, Value) and value.kind == "sum":
        return low.requantised(node, value, relu=True)
    raise low.refuse(node, "its input is no sum of a layer")


def _pool(low: Lowering, node: fx.Node, kernel: list[int], stride: list[int], padding: list[int]) -> Value:
    a = low.activation(node.args[0])
    acc = low.emit(lfwd.int_pool_sum, a.node, kernel, stride, padding)
    return Value(acc, a.exponent, "sum", a.factor / math.prod(kernel), learned=a.learned)


@rule(aten.mean)
def mean(low: Lowering, node: fx.Node) -> Value:
    shape, dims = _shape(node.args[0]), sorted(d % len(_shape(node.args[0])) for d in node.args[1])
    if len(shape) != 4 or dims != [2, 3]:
        raise low.refuse(node, "a mean over other dimensions than those of an image")
    value = _pool(low, node, list(shape[2:]), list(shape[2:]), [0, 0])
    if len(_shape(node)) == 2:
        value = value.on(low.emit(aten.view.default, value.node, list(_shape(node))))
    return value


@rule(aten._adaptive_avg_pool2d)
def adaptive(low: Lowering, node: fx.Node) -> Value:
    before, after = _shape(node.args[0])[2:], _shape(node)[2:]
    if any(a % b for a, b in zip(before, after, strict=True)):
        raise low.refuse(node, "adaptive pooling with windows of several sizes", "choose an output size that divides the input's")
    kernel = [a // b for a, b in zip(before, after, strict=True)]
    return _pool(low, node, kernel, kernel, [0, 0])


@rule(aten.avg_pool2d)
def average(low: Lowering, node: fx.Node) -> Value:
    kernel, stride, padding = (list(node.args[i]) if len(node.args) > i and node.args[i] else None for i in (1, 2, 3))
    if (padding and any(padding)) or any(node.args[4:5]) or any(n is not None for n in node.args[6:]):
        raise low.refuse(node, "average pooling with padding, ceil_mode or divisor_override", "pool without these")
    kernel = kernel * 2 if len(kernel) == 1 else kernel
    return _pool(low, node, kernel, stride or kernel, [0, 0])


@rule(aten.constant_pad_nd)
def pad(low: Lowering, node: fx.Node) -> Value:
    if len(node.args) > 2 and node.args[2] != 0:
        raise low.refuse(node, "padding by another value than 0")
    value = low.values[node.args[0]]
    back = isinstance(value, Value) and value.is_error  # of a pooling that leaves a border out
    a = low.error(node.args[0]) if back else low.activation(node.args[0])
    return a.on(low.emit(aten.constant_pad_nd.default, a.node, list(node.args[1]), 0))


@rule(aten.index_select)
def select(low: Lowering, node: fx.Node) -> object:
    source, dim, index = node.args
    value = low.values[source]
    if isinstance(value, Gradient) and value.x is not None and dim == 1 and (value.geometry is None or value.geometry[3] == 1):
        part = value.x.on(low.emit(aten.index_select.default, value.x.node, 1, low.values[index]))
        return replace(value, x=part)
    if not isinstance(value, Value):
        return None  # of a weight: the shape that its gradient takes, or what the optimizer writes; neither is lowered
    a = low.activation(source)
    return a.on(low.emit(aten.index_select.default, a.node, dim, low.values[index]))


@rule(aten.repeat)
def repeat(low: Lowering, node: fx.Node) -> Value:
    a = low.activation(node.args[0])
    return a.on(low.emit(aten.repeat.default, a.node, list(node.args[1])))


@rule(aten.cat)
def cat(low: Lowering, node: fx.Node) -> fx.Node:
    parts = [low.values[n] for n in node.args[0]]
    if not all(isinstance(p, fx.Node) for p in parts):
        raise low.refuse(node, "it joins values, whose scales differ")
    return low.emit(aten.cat.default, parts, *node.args[1:])


@rule(aten.add)
def add(low: Lowering, node: fx.Node) -> object:
    first, second = (low.values.get(n) if isinstance(n, fx.Node) else n for n in node.args[:2])
    if second == 0 and isinstance(first, Value | list):
        return first
    if isinstance(first, list) and isinstance(second, list):  # gradients along several directions
        return first + second
    if _of_logits(low, node) and all(isinstance(v, Value) and v.kind == "sum" and v.factor == 1.0 for v in (first, second)):
        exponents = [low.exponent_node(v.exponent) for v in (first, second)]
        acc = low.emit(lfwd.int_add_sums, first.node, exponents[0], second.node, exponents[1])
        return Value(acc, low.emit(lfwd.int_smaller, *exponents), "sum", learned=first.learned or second.learned)
    if all(isinstance(v, Value) and v.is_error for v in (first, second)) and node.meta["phase"] != "projection":
        return _sum_of_errors(low, node)
    if all(isinstance(v, Value) and not v.is_error for v in (first, second)) and node.meta["phase"] in ("forward", "second_forward"):
        if _shape(node.args[0]) != _shape(node.args[1]):
            raise low.refuse(node, "a sum of two shapes")
        a, b = (low.activation(n) for n in node.args[:2])
        exponents = [low.exponent_node(v.exponent) for v in (a, b)]
        acc = low.emit(lfwd.int_add, a.node, exponents[0], b.node, exponents[1])
        return Value(acc, low.emit(lfwd.int_larger, *exponents), "sum", learned=a.learned or b.learned)
    if node.meta["phase"] == "projection":
        raise low.refuse(node, "an error that is added to an int8 input is lost in its rounding", "use Pepita(second_pass='tangent')")
    raise low.refuse(node, "a sum of an error and something else")


def _sum_of_errors(low: Lowering, node: fx.Node) -> Value:
    """Where paths part in the forward pass their errors meet: at the coarser scale of the two."""
    parts, factors = [], set()
    for n in node.args[:2]:
        value = low.values[n]
        if value.kind == "sum" and value.mask is None:
            parts.append((value.node, low.exponent_node(value.exponent)))
        else:
            e = low.error(n)
            parts.append((low.emit(lfwd.int_error_sum, e.node), low.exponent_node(low.plus(e.exponent, None, 1, SUM_FRACTION))))
        factors.add(value.factor)
    if len(factors) > 1 or _shape(node.args[0]) != _shape(node.args[1]):
        raise low.refuse(node, "two errors meet here whose factors or shapes differ")
    (a, of_a), (b, of_b) = parts
    acc = low.emit(lfwd.int_add_sums, a, of_a, b, of_b)
    return Value(acc, low.emit(lfwd.int_smaller, of_a, of_b), "sum", factors.pop(), back=True)


def _of_logits(low: Lowering, node: fx.Node) -> bool:
    """Whether a sum is the logits, or a part of theirs: what several heads say."""
    logits, users = low.source.results["logits"], list(node.users)
    return node is logits or (len(users) == 1 and users[0].target is aten.add.Tensor and _of_logits(low, users[0]))


@rule(operator.getitem)
def getitem(low: Lowering, node: fx.Node) -> object:
    found = low.values[node.args[0]][node.args[1]]
    return found() if callable(found) else found


@rule(aten.full, aten.full_like, aten.scalar_tensor)
def constant(low: Lowering, node: fx.Node) -> float:
    return float(node.args[0] if node.target is aten.scalar_tensor.default else node.args[1])


@rule(aten.mul)
def mul(low: Lowering, node: fx.Node) -> object:
    return _scale(low, node, lambda x: x)


@rule(aten.div)
def div(low: Lowering, node: fx.Node) -> object:
    return _scale(low, node, lambda x: 1 / x)


def _scale(low: Lowering, node: fx.Node, meaning) -> object:
    first, second = (low.values[n] if isinstance(n, fx.Node) else float(n) for n in node.args[:2])
    if isinstance(first, float) and not isinstance(second, float):
        first, second = second, first
    if not isinstance(second, float):
        raise low.refuse(node, "a product of two computed values")
    factor = meaning(second)
    if isinstance(first, float):
        return first * factor
    if not isinstance(first, Value | Gradient) or factor == 0 or (factor < 0 and not (isinstance(first, Gradient) or first.is_error)):
        raise low.refuse(node, f"a factor of {factor}")
    values = [n for n in node.args[:2] if isinstance(n, fx.Node) and low.values[n] is first]
    if isinstance(first, Value) and _shape(values[0]) != _shape(node):  # times ones of a larger shape: an error spread over positions
        first = low.error(values[0])
        first = first.on(low.emit(aten.expand.default, first.node, list(_shape(node))))
        first = first.on(low.emit(aten.clone.default, first.node))
    elif isinstance(first, Value) and first.back and len(values[0].users) > 1:
        first = low.error(values[0])  # narrowed once, for all who read it
    return first.times(factor)


@rule(torch.ops.lfwd.positive_bits)
def positive_bits(low: Lowering, node: fx.Node) -> Value:
    return low.activation(node.args[0])
