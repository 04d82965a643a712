"""Zeroth order in integers: how the operations of :mod:`lightning_fwd.graph.weight_directions` are lowered, and its updates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from ..graph import weight_directions  # noqa: F401  (defines lfwd::moved and its like)
from . import directions  # noqa: F401  (defines the operators)
from .lowering import Lowering, lfwd, rule
from .values import Value


@dataclass(frozen=True)
class Seed:
    """``counter * times + plus``."""

    times: int
    plus: int

    def at(self, low: Lowering, place: int, scale: float) -> tuple[fx.Node, int, int, int]:
        """What an operator takes to draw the direction of a parameter: counter, times, plus, exponent of the displacement."""
        return low.counter(), self.times, (self.plus + place) & 0xFFFFFFFF, round(-math.log2(scale))


@dataclass(frozen=True)
class Along:
    """A gradient that is a slope times a direction, never computed: what its update takes instead."""

    slope: Value
    draw: tuple[fx.Node, int, int, int]


@rule("lfwd::seed_of")
def seed_of(low: Lowering, node: fx.Node) -> Seed:
    return Seed(*node.args[1:])


@rule("lfwd::moved")
def moved(low: Lowering, node: fx.Node) -> fx.Node:
    parameter, seed, place, scale = node.args
    own, draw, name = low.values[parameter], low.values[seed].at(low, place, scale), low.names[parameter.name]
    low.displaced(node, seed, parameter)
    if own.meta["val"].ndim == 1:
        return low.emit(lfwd.int_moved_bias, own, weight_beside(low, name), *draw)
    return low.emit(lfwd.int_moved, own, low.weight_exponents(name), *draw)


def weight_beside(low: Lowering, bias: str) -> fx.Node | None:
    """Exponents of the weight of a bias's layer, where it is displaced too."""
    weight = bias.removesuffix("bias") + "weight"
    trained = weight != bias and weight in low.source.trained and low.source.node(weight).meta["val"].ndim > 1
    return low.weight_exponents(weight) if trained else None


@rule("lfwd::slope")
def slope(low: Lowering, node: fx.Node) -> Value:
    e, after, before = low.error(node.args[0]), *(low.values[n] for n in node.args[1:])
    if any(not isinstance(v, Value) or v.kind != "sum" or v.factor != 1.0 for v in (after, before)):
        raise low.refuse(node, "its logits are no sums of a layer", "end the model in a linear layer")
    if (values := e.node.meta["val"].numel()) > 1 << 16:
        raise low.refuse(node, f"{values} products could overflow 64 bits", "use a smaller batch")
    shift = low.emit(lfwd.int_slope_shift, e.node, after.node, before.node)
    both = low.plus(e.exponent, low.exponent_node(before.exponent))
    steepness = low.emit(lfwd.int_slope, e.node, after.node, before.node, shift)
    return Value(steepness, low.plus(both, shift, -1), "error", e.factor)


@rule("lfwd::along")
def along(low: Lowering, node: fx.Node) -> list[Along]:
    steepness, seed, place, _, scale = node.args
    return [Along(low.values[steepness].times(scale), low.values[seed].at(low, place, scale))]
