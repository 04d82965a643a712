"""The values of a step graph: which tensors a node makes, whose memory they lie in, which of them are gradients."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, fx

from ..graph.operand import operand
from .optimizers import state_name
from .step_graph import StepGraph

Value = tuple[fx.Node, int]  #: a node and which of its outputs


def tensors_of(node: fx.Node) -> list[Tensor | None]:
    """The tensors that a node makes, in order; None where an output is not asked for."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return [v if isinstance(v, Tensor) else None for v in value]
    return [value] if isinstance(value, Tensor) else []


def is_view(node: fx.Node) -> bool:
    """Whether a node's value is its first argument's memory, read differently."""
    return isinstance(node.target, torch._ops.OpOverload) and (node.target.is_view or node.target is torch.ops.aten._unsafe_view.default)


def makes_nothing(node: fx.Node) -> bool:
    """Whether a node only gives a name to memory that is there."""
    return node.op != "call_function" or node.target is operator.getitem or is_view(node)


def is_part(node: fx.Node) -> bool:
    """Whether a node is one of the pieces of a view with several outputs (``split``, ``unbind``): a part of that view's source."""
    return node.target is operator.getitem and is_view(operand(node))


def base_of(node: fx.Node, names_memory: Callable[[fx.Node], bool] = is_view) -> Value:
    """The value whose memory holds this node's; ``names_memory`` says which operations make none of their own."""
    while True:
        made_by, output = (operand(node), cast(int, node.args[1])) if node.target is operator.getitem else (node, 0)
        if not names_memory(made_by):
            return made_by, output
        node = operand(made_by)


def operands_read(node: fx.Node, wanted: Sequence[bool] | None = None) -> list[fx.Node]:
    """The inputs whose values a node reads.

    All of them, except in a convolution's backward: the error to its input needs the weight, the weight's gradient the input, the bias's
    gradient neither; of an input that it does not read it takes the shape alone, and that value may be dead.

    Args:
        wanted: of a convolution's backward: which of its outputs (error, weight gradient, bias gradient); by default those that it makes.
    """
    if node.target is not torch.ops.aten.convolution_backward.default:
        return node.all_input_nodes
    gradient, x, weight = (operand(node, i) for i in range(3))
    error, of_weight, _ = cast(Sequence[bool], node.args[-1]) if wanted is None else wanted
    return [gradient, *[x] * bool(of_weight), *[weight] * bool(error)]


def runs_with(node: fx.Node) -> fx.Node:
    """The operation whose loop a streamed node is part of; any other node itself."""
    while "streamed" in node.meta:
        node = next(iter(node.users))  # the others, if any, are part of the same loop
    return node


def gradient_values(step: StepGraph) -> dict[Value, str]:
    """Values that become a parameter's gradient by views, masks, scaling and sums of the same size alone, with the parameter's name."""
    nodes, results = {n.name: n for n in step.graph.nodes}, step.results
    found: dict[Value, str] = {}
    for name, node_name in step.gradients.items():
        stepped = (results.get(key) for key in (name, state_name("momentum", name)))
        size, stack = numel(nodes[node_name]), [nodes[node_name], *(part for update in stepped for part in _stepped_apart(update))]
        while stack:
            node = stack.pop()
            if node.target is operator.getitem:
                found[operand(node), cast(int, node.args[1])] = name
                continue
            if (node, 0) in found or node.meta["phase"] not in ("backward", "update"):
                continue
            found[node, 0] = name
            if is_view(node) or torch.Tag.pointwise in cast(torch._ops.OpOverload, node.target).tags:
                stack += [n for n in node.all_input_nodes if n.op == "call_function" and numel(n) == size]
    return found


def _stepped_apart(update: fx.Node | None) -> list[fx.Node]:
    """What a shared weight is stepped by before its last gradient, where scheduling took their sum apart."""
    found = []
    while update is not None:
        update = next((n for n in update.all_input_nodes if "partial_update" in n.meta), None)
        found += [] if update is None else [n for n in update.all_input_nodes if n.op == "call_function" and "partial_update" not in n.meta]
    return found


def numel(node: fx.Node) -> int:
    """Elements of a node's one tensor, -1 where it makes several or none."""
    value = node.meta.get("val")
    return value.numel() if isinstance(value, Tensor) else -1
