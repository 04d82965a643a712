"""A weight of which some inputs learn, in two: int16 masters of these alone, and int8 values of the others, which stay in Flash."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx

from ..trace import StepGraph
from .lowering import Lowering, lfwd
from .values import Value

aten = torch.ops.aten
FROZEN, LEARNS, RESTS = ".frozen", ".learns", ".rests"  #: behind the weight's name: values of the others, which inputs are which


def learning_inputs(source: StepGraph, wanted: Collection[fx.Node], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained weights of which a part of the inputs learns, and which hand no error back: to the indices of these inputs.

    Args:
        state: of the model, by name.
    """
    names, found = {node: name for name, node in source.state.items()}, dict[str, Tensor]()
    for name in source.trained:
        result, place = source.results[name], source.node(name)
        if result.target is not aten.index_put.default or place.meta["val"].ndim < 2:
            continue
        *before, index = result.args[1]
        if before == [None] and not hands_back(source, wanted, name):
            found[name] = state[names[index.name]]
    return found


def hands_back(source: StepGraph, wanted: Collection[fx.Node], name: str) -> bool:
    """Whether a step does more with a weight than multiply by it as it is: errors pass through it."""
    place = source.node(name)
    return not all(_only_reads(u, place) for u in place.users if u in wanted)


def _only_reads(user: fx.Node, weight: fx.Node) -> bool:
    """Whether a user multiplies by the weight as it is, takes its learning part, or its shape alone."""
    if user.target is aten.convolution.default:
        return user.args[1] is weight and not user.args[6] and user.args[8] == 1
    if user.target is aten.convolution_backward.default:
        return user.args[2] is weight and not user.args[-1][0]
    if user.target is aten.permute.default:
        return all(u.target in (aten.addmm.default, aten.mm.default) and user in u.args[1:] for u in user.users)
    return user.target in (aten.index_select.default, aten.index_put.default)


def declare_split(low: Lowering, name: str, learning: int) -> fx.Node:
    """State of both parts; the masters of the learning one."""
    shape, layer = list(low.source.node(name).meta["val"].shape), name.rpartition(".")[0]
    rest = [shape[0], shape[1] - learning, *shape[2:]]
    low.state_of(name + FROZEN, tuple(rest), torch.int8, layer)
    low.state_of(name + LEARNS, (learning,), torch.int64, layer)
    low.state_of(name + RESTS, (rest[1],), torch.int64, layer)
    low.weights += [name, name + FROZEN]
    return low.state_of(name, (shape[0], learning, *shape[2:]), torch.int16, layer)


def split_sum(low: Lowering, name: str, a: Value, bias: fx.Node | None, geometry: tuple | None) -> tuple[fx.Node, fx.Node]:
    """Sums of both parts together, and their exponent; ``geometry`` of a convolution, None of a linear layer."""
    xs, rows, exponents, x_exponent = [], [], [], low.exponent_node(a.exponent)
    for part, index in ((name + FROZEN, RESTS), (name, LEARNS)):
        xs.append(low.emit(aten.index_select.default, a.node, 1, low.state[name + index]))
        rows.append(low.rows_of(part, low.state[part].meta["val"].shape[0]))
        exponents.append(low.exponent_node(low.plus(a.exponent, rows[-1])))
    weights, both = (low.state[name + FROZEN], low.state[name]), low.emit(lfwd.int_smaller, *exponents)
    if geometry is None:
        sums = [low.emit(lfwd.int_linear, x, w, r, b, x_exponent) for x, w, r, b in zip(xs, weights, rows, (bias, None), strict=True)]
        return low.emit(lfwd.int_add_sums, sums[0], exponents[0], sums[1], exponents[1]), both
    base = low.emit(lfwd.int_conv, xs[0], weights[0], rows[0], bias, x_exponent, *geometry)
    return low.emit(lfwd.int_conv_onto, xs[1], weights[1], rows[1], x_exponent, base, exponents[0], *geometry), both


def split_floats(floats: Mapping[str, Tensor], split: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's tensors as the lowered step names them."""
    found = dict(floats)
    for name, index in split.items():
        rests = torch.tensor([i for i in range(floats[name].shape[1]) if i not in set(index.tolist())], dtype=torch.int64)
        parts = {name: floats[name].index_select(1, index), name + FROZEN: floats[name].index_select(1, rests)}
        found |= parts | {name + LEARNS: index, name + RESTS: rests}
    return found
