"""Which part of a step is a frozen body, and how it is lowered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx

from ..trace import StepGraph
from .body import BodyLayer, BodySum, Scale
from .lowering import PREFIX, Lowering, lfwd
from .values import Value

aten = torch.ops.aten
BODY = f"{PREFIX}body/"
_CONV, _RELU, _ADD, _PAD = aten.convolution.default, aten.relu.default, aten.add.Tensor, aten.constant_pad_nd.default


def body_of(source: StepGraph, masters: Collection[str], wanted: Collection[fx.Node]) -> set[fx.Node]:
    """Convolutions, ReLUs, sums and paddings of images that depend on the input and on frozen weights alone, from the input on."""
    names = {node: name for name, node in (source.inputs | source.state).items()}
    start, found = source.node("input"), set[fx.Node]()
    frozen = {n for n in source.graph.nodes if n.op == "placeholder" and names[n.name] in source.state and names[n.name] not in masters}
    for node in source.graph.nodes:
        read = [n for n in node.all_input_nodes if n not in frozen]
        if node in wanted and read and all(n in found or n is start for n in read) and _is_of_body(node, frozen):
            found.add(node)
    while lost := {n for n in found if _is_lost(n, found, start, wanted)}:
        found -= lost
    return found


def _is_of_body(node: fx.Node, frozen: Collection[fx.Node]) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim != 4 or not value.is_floating_point():
        return False
    if node.target is _CONV:
        _, weight, bias, _, _, _, transposed, _, groups = node.args
        depthwise = groups > 1 and weight.meta["val"].shape[1] == 1
        return not transposed and weight in frozen and (bias is None or bias in frozen) and (groups == 1 or depthwise)
    if node.target is _ADD:
        return not node.kwargs and (
            all(isinstance(n, fx.Node) and n.meta["val"].shape == value.shape for n in node.args[:2]) and node.args[0] is not node.args[1]
        )
    return node.target is _RELU or (node.target is _PAD and not any(node.args[2:]) and len(node.args[1]) == 4 and min(node.args[1]) >= 0)


def _is_lost(node: fx.Node, body: set[fx.Node], start: fx.Node, wanted: Collection[fx.Node]) -> bool:
    read = [n for n in node.all_input_nodes if n.op != "placeholder" or n is start]
    if any(n not in body and n is not start for n in read) or (node.target in (_RELU, _ADD) and start in read):
        return True
    if node.target is _RELU and node.args[0].target is _PAD:
        return True
    readers = [u for u in node.users if u in wanted]
    if node.target is _PAD:
        return not all(u in body and u.target is _CONV and u.args[0] is node for u in readers)
    return False


@dataclass(frozen=True)
class BodyValue:
    """What a node of the body has become. Attributes: node: int8 ``(B, H, W, C)``. pads: left, right, top, bottom, yet to be applied."""

    node: fx.Node
    scale: Scale
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


def lower_body(low: Lowering, node: fx.Node) -> None:
    """Lower a node of the body; where others read it, as an activation too."""
    if node.target is _PAD:
        before = _read(low, node.args[0])
        low.bodies[node] = BodyValue(before.node, before.scale, tuple(a + b for a, b in zip(before.pads, node.args[1], strict=True)))
        return
    if node.target is not _RELU and _fused(low, node):
        return  # with the ReLU
    relu = node.target is _RELU
    made = node.args[0] if relu else node
    scale, name = _gives(low, node, relu)
    if made.target is _CONV:
        y, spec = _conv(low, made, name, scale, relu)
    else:
        y, spec = _sum(low, made, name, scale, relu)
    low.body_layers[name] = spec
    low.bodies[node] = BodyValue(y, scale)
    if scale.exponent:
        first = low.emit(lfwd.int_channels_first, y)
        low.values[node] = Value(first, low.state_of(scale.key, (1,), torch.int8, node.meta["layer"]), "activation")


def _fused(low: Lowering, node: fx.Node) -> bool:
    """Whether a ReLU is all that reads a sum."""
    readers = [u for u in node.users if u in low.wanted]
    return len(readers) == 1 and readers[0].target is _RELU and readers[0] in low.body


def _gives(low: Lowering, node: fx.Node, relu: bool) -> tuple[Scale, str]:
    name = body_name(low, node)
    if any(u in low.wanted and u not in low.body and u not in low.features for u in node.users):
        key = low.activation_name(node)
        low.activations[key] = node.name
        return Scale(key, True, 0), name
    low.ranges[name] = node.name
    return Scale(name, False, -128 if relu else 0), name


def body_name(low: Lowering, node: fx.Node) -> str:
    """Of the constants of what a node becomes."""
    layer = node.meta["layer"].replace(".", "/") or "network"
    several = (f"{BODY}{layer}" + (f"/{k}" if k else "") for k in range(len(low.body_layers) + 1))
    return next(n for n in several if n not in low.body_layers)


def _read(low: Lowering, node: fx.Node) -> BodyValue:
    if node in low.bodies:
        return low.bodies[node]
    value = low.values[node]  # the input
    last = low.once(("last", node), lambda: low.emit(lfwd.int_channels_last, value.node))
    return BodyValue(last, Scale(f"{PREFIX}input", True, 0))


def _conv(low: Lowering, node: fx.Node, name: str, scale: Scale, relu: bool) -> tuple[fx.Node, BodyLayer]:
    x, weight, bias, stride, padding, dilation, _, _, groups = node.args
    given, shape = _read(low, x), tuple(weight.meta["val"].shape)
    depthwise, (left, right, top, bottom) = groups > 1, given.pads
    pads = [top + padding[0], left + padding[1], bottom + padding[0], right + padding[1]]
    kernel = (1, *shape[2:], shape[0]) if depthwise else (shape[0], *shape[2:], shape[1])
    layer, i32 = node.meta["layer"], torch.int32
    constants = [low.state_of(f"{name}/weight", kernel, torch.int8, layer)]
    constants += [low.state_of(f"{name}/{what}", (shape[0],), i32, layer) for what in ("start", "multiplier", "shift")]
    geometry = (list(stride), pads, list(dilation), groups)
    operator = lfwd.int_body_depthwise if depthwise else lfwd.int_body_conv
    y = low.emit(operator, given.node, *constants, *geometry, given.scale.zero, scale.zero, relu)
    names = [low.names[n.name] if n is not None else "" for n in (weight, bias)]
    said = (tuple(stride), tuple(pads), tuple(dilation), groups, relu)
    return y, BodyLayer(names[0], names[1], given.scale, scale, depthwise, said)


def _sum(low: Lowering, node: fx.Node, name: str, scale: Scale, relu: bool) -> tuple[fx.Node, BodySum]:
    a, b = (_read(low, n) for n in node.args[:2])
    numbers = low.state_of(f"{name}/numbers", (4,), torch.int32, node.meta["layer"])
    return low.emit(lfwd.int_body_add, a.node, b.node, numbers, scale.zero, relu), BodySum(a.scale, b.scale, scale)
