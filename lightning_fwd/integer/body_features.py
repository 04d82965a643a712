"""The averages of a frozen body's images that a head over blocks reads: pooled, standardised and joined in one pass over sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..trace import StepGraph
from .body import BodyFeatures, Scale
from .lowering import Lowering, lfwd
from .values import Value

aten = torch.ops.aten
_OF_CONSTANTS = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.rsqrt.default,
    aten.sqrt.default,
}
_AFFINE = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
_VIEWS = {aten.view.default, aten.cat.default}


@dataclass(frozen=True)
class Features:
    """Attributes: result: the node that is read. leaves: averages in the order of the features. nodes: all that it takes, constants too."""

    result: fx.Node
    leaves: tuple[fx.Node, ...]
    nodes: frozenset[fx.Node]


def features_of(source: StepGraph, masters: Collection[str], wanted: Collection[fx.Node], body: Collection[fx.Node]) -> Features | None:
    """Averages of the body's images, joined; None where there are none, or something else reads them."""
    names = {node: name for name, node in source.state.items()}
    fixed = {n for n in source.graph.nodes if n.op == "placeholder" and n.name in names and names[n.name] not in masters}
    constants, leaves, features = set[fx.Node](), set[fx.Node](), set[fx.Node]()
    for node in source.graph.nodes:
        read = node.all_input_nodes
        if node not in wanted or node.op != "call_function" or node in body:
            continue
        if read and all(n in fixed or n in constants for n in read) and node.target in _OF_CONSTANTS | _VIEWS:
            constants.add(node)
        elif node.target is aten.mean.dim and read[0] in body and {d % 4 for d in node.args[1]} == {2, 3}:
            leaves.add(node)
        elif _is_feature(node, leaves | features, fixed | constants):
            features.add(node)
    read_elsewhere = [n for n in leaves | features if any(u in wanted and u not in features for u in n.users)]
    joined = [n for n in read_elsewhere if n in features and n.meta["val"].ndim == 2]
    if len(read_elsewhere) != 1 or not joined:
        return None
    order = _leaves(joined[0], leaves)
    used = {n for n in constants if all(u in features | constants for u in n.users if u in wanted)}
    if not any(n.target is aten.cat.default for n in features) or len(set(order)) != len(order):
        return None
    return Features(joined[0], tuple(order), frozenset(leaves | features | used))


def _is_feature(node: fx.Node, values: Collection[fx.Node], constants: Collection[fx.Node]) -> bool:
    read = node.all_input_nodes
    if node.target in _VIEWS:
        along = node.target is aten.view.default or node.args[1:] == (1,)
        return bool(read) and all(n in values for n in read) and along and node.meta["val"].ndim in (2, 4)
    mixed = node.target in _AFFINE and [n in values for n in node.args[:2]] in ([True, False], [False, True])
    return mixed and all(n in values or n in constants for n in read) and not (node.target is aten.div.Tensor and node.args[1] in values)


def _leaves(node: fx.Node, leaves: Collection[fx.Node]) -> list[fx.Node]:
    if node in leaves:
        return [node]
    parts = node.args[0] if node.target is aten.cat.default else node.args[:2]
    return [leaf for part in parts if isinstance(part, fx.Node) for leaf in _leaves(part, leaves)]


def lower_features(low: Lowering, found: Features, name: str) -> None:
    """Lower them, as the activation that the head reads."""
    sums, reads = [], []
    for leaf in found.leaves:
        image = low.bodies[leaf.args[0]]
        sums.append(low.emit(lfwd.int_body_sums, image.node, image.scale.zero))
        shape = leaf.args[0].meta["val"].shape
        reads.append((image.scale, math.prod(shape[2:]), shape[1]))
    joined = sums[0] if len(sums) == 1 else low.emit(aten.cat.default, sums, 1)
    width, layer, key = sum(channels for _, _, channels in reads), found.result.meta["layer"], low.activation_name(found.result)
    low.activations[key] = found.result.name
    constants = [low.state_of(f"{name}/{what}", (width,), torch.int32, layer) for what in ("start", "multiplier", "shift")]
    node = low.emit(lfwd.int_body_features, joined, *constants)
    low.body_layers[name] = BodyFeatures(tuple(reads), Scale(key, True, 0), _affine(low.source, found))
    low.values[found.result] = Value(node, low.state_of(key, (1,), torch.int8, layer), "activation")


def _affine(source: StepGraph, found: Features) -> Callable[[Mapping[str, Tensor], float], Tensor]:
    """The features as a function of the model's tensors, every average being the same number."""
    names, graph, copies, read = {node: name for name, node in source.state.items()}, fx.Graph(), dict[fx.Node, fx.Node](), []
    average = graph.placeholder("average")
    for node in source.graph.nodes:
        if node.op == "placeholder" and any(u in found.nodes for u in node.users) and node.name in names:
            copies[node] = graph.placeholder(node.name)
            read.append(names[node.name])
        elif node in found.leaves:
            copies[node] = graph.call_function(aten.expand.default, (average, list(node.meta["val"].shape)))
        elif node in found.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[found.result])
    module = fx.GraphModule(nn.Module(), graph)

    def run(floats: Mapping[str, Tensor], value: float) -> Tensor:
        result: Tensor = module(torch.tensor(value), *(floats[name].detach() for name in read))
        return result[0]

    return run
