"""What the optimizer's arithmetic becomes: masters, velocities, biases, and the ratchet of a row that saturates."""

from __future__ import annotations

import math

import torch
from torch import fx

from ..trace.optimizers import state_name
from .arithmetic import HALF, as_multiplier
from .direction_rules import Along, weight_beside
from .lowering import RATE, Lowering, exponents_of, lfwd
from .values import Gradient, Value

MOMENTUM = state_name("momentum", "")
STREAMS = 4  #: of draws per parameter: change, velocity, application, one to spare


def lower_update(low: Lowering, name: str, gradient_node: fx.Node, momentum: bool) -> None:
    """The new value of a trained parameter, and of its velocity and exponents, into ``low.results``."""
    low.at, gradient = gradient_node, low.values[gradient_node]
    if isinstance(gradient, Value):
        raise low.refuse(gradient_node, f"the gradient of {name} is computed, not a product of an error and an activation")
    if isinstance(gradient, list):
        _along(low, name, gradient, momentum)
        return
    if not isinstance(gradient, Gradient):
        raise low.refuse(gradient_node, f"the gradient of {name} is no product of an error and an activation")
    parameter, stream = low.source.node(name), STREAMS * list(low.source.trained).index(name)
    c, c_exponent = _rated(low, gradient.error)
    if parameter.meta["val"].ndim == 1:
        _bias(low, name, c, c_exponent, stream, momentum)
    elif gradient.x is None:
        raise low.refuse(gradient_node, f"{name} is a matrix and its gradient a sum of errors")
    else:
        _weight(low, name, gradient, (c, c_exponent), stream, momentum)


def _rated(low: Lowering, e: Value) -> tuple[fx.Node, fx.Node]:
    """``c``, the error times the rate, and its exponent. So narrow that a sum over batch and positions fits: ``bits - 1 + 7 + log2(terms)
    <= 30``."""

    def make() -> tuple[fx.Node, fx.Node]:
        rate = low.input(RATE, torch.empty(3, dtype=torch.int32, device="meta"))
        shape = e.node.meta["val"].shape
        terms = shape[0] * math.prod(shape[2:])
        bits = min(16, 24 - (terms - 1).bit_length())
        if bits < 4:
            raise low.refuse(low.at, f"{terms} products per weight leave {bits} bits for each error", "use a smaller batch")
        mult, below = as_multiplier(e.factor)
        known = isinstance(e.exponent, int)
        c = low.emit(lfwd.int_apply_rate, e.node, rate, mult, bits, phase="update")
        constant = below - (31 - bits) + (e.exponent if known else 0)
        return c, low.emit(lfwd.int_rate_exponent, rate, None if known else e.exponent, constant, phase="update")

    return low.once(("rated", e.node, e.factor), make)


def _bias(low: Lowering, name: str, c: fx.Node, c_exponent: fx.Node, stream: int, momentum: bool) -> None:
    state, counter = low.values[low.source.node(name)], low.counter()
    if not momentum:
        low.results[name] = low.emit(lfwd.int_bias_update, state, c, c_exponent, counter, stream, phase="update")
        return
    velocity = low.state_of(MOMENTUM + name, tuple(state.meta["val"].shape), torch.int32, state.meta["layer"])
    faster = low.emit(lfwd.int_bias_velocity, velocity, c, c_exponent, counter, stream, low.inputs[RATE], phase="update")
    low.results[MOMENTUM + name] = faster
    low.results[name] = low.emit(lfwd.int_apply_velocity, state, faster, counter, stream, None, phase="update")


def _weight(low: Lowering, name: str, gradient: Gradient, rated: tuple[fx.Node, fx.Node], stream: int, momentum: bool) -> None:
    state, exponents, counter = low.values[low.source.node(name)], low.weight_exponents(name), low.counter()
    x, index, geometry = gradient.x, _part(low, name), gradient.geometry or ()
    scales = (exponents, *rated, x.node, low.exponent_node(x.exponent), counter, stream)
    kind = "outer" if gradient.geometry is None else "conv"
    if momentum:
        shape = list(state.meta["val"].shape)
        shape[1] = x.node.meta["val"].shape[1] // (geometry[3] if geometry else 1)
        velocity = low.state_of(MOMENTUM + name, tuple(shape), torch.int16, state.meta["layer"])
        faster = low.emit(getattr(lfwd, f"int_{kind}_velocity"), velocity, *scales, low.inputs[RATE], *geometry, phase="update")
        new = low.emit(lfwd.int_apply_velocity, state, faster, counter, stream, index, phase="update")
    else:
        new = low.emit(getattr(lfwd, f"int_{kind}_update"), state, *scales, index, *geometry, phase="update")
    rows = _ratcheted(low, name, new)
    if momentum:
        low.results[MOMENTUM + name] = low.emit(lfwd.int_ratchet, faster, rows, 0, phase="update")


def _ratcheted(low: Lowering, name: str, new: fx.Node) -> fx.Node:
    """New masters and their exponents into ``low.results``; which rows were halved."""
    rows = low.emit(lfwd.int_saturated, new, low.counter(), phase="update")
    low.results[name] = low.emit(lfwd.int_ratchet, new, rows, HALF, phase="update")
    low.results[exponents_of(name)] = low.emit(lfwd.int_ratchet_exponents, low.weight_exponents(name), rows, phase="update")
    return rows


def _along(low: Lowering, name: str, gradient: list[Along], momentum: bool) -> None:
    """One change for each direction, rounded on its own."""
    if momentum:
        raise low.refuse(low.at, "changes along random directions have no velocity", "train without momentum, at rate / (1 - momentum)")
    new, stream = low.values[low.source.node(name)], STREAMS * list(low.source.trained).index(name)
    for k, part in enumerate(gradient):
        rated, stream_k = _rated(low, part.slope), (stream + STREAMS * len(low.source.trained) * k)
        if new.meta["val"].ndim == 1:
            new = low.emit(lfwd.int_direction_bias_update, new, weight_beside(low, name), *rated, stream_k, *part.draw, phase="update")
        else:
            new = low.emit(lfwd.int_direction_update, new, low.weight_exponents(name), *rated, stream_k, *part.draw, phase="update")
    if new.meta["val"].ndim == 1:
        low.results[name] = new
    else:
        _ratcheted(low, name, new)


def _part(low: Lowering, name: str) -> fx.Node | None:
    """Which inputs of a weight learn, where not all do."""
    result = low.source.results[name]
    if name in low.split:  # its masters are of these alone
        return None
    if result.target is not torch.ops.aten.index_put.default:
        return None
    *before, index = result.args[1]
    if before != [None]:
        raise low.refuse(result, f"of {name} a part along another dimension than its inputs learns")
    return low.values[index]
