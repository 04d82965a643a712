"""Weight gradients are never stored: the update takes each entry as it is summed."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ...trace.step_graph import StepGraph
from ...trace.values import is_view, tensors_of
from .rewire import copy_of, recompiled

aten = torch.ops.aten


def stream_gradients(step: StepGraph) -> StepGraph:
    """Mark gradients of weights that one kernel can multiply out and apply entry by entry (``meta["streamed"]``): they take no memory.

    An entry of a layer's weight gradient is one sum of products. Where its only reader is an update in place (SGD: of the weight, or of the
    momentum), the kernel that sums it can apply it at once. The nodes stay in the graph, right before the update.
    """
    step = copy_of(step)
    for update in list(step.graph.nodes):
        if "in_place_of" not in update.meta or torch.Tag.pointwise not in update.target.tags:
            continue
        for operand in update.all_input_nodes:
            for node in _stream(operand, update):
                node.meta["streamed"] = True
                update.prepend(node)
    return recompiled(step)


def _stream(node: fx.Node, update: fx.Node) -> list[fx.Node]:
    """The nodes that make a gradient for this update alone, in order; none where it is no single sum of products."""
    size, chain = update.meta["val"].numel(), []
    while node.op == "call_function" and len(node.users) == 1 and node.meta["phase"] in ("backward", "update"):
        if "in_place_of" in node.meta:  # the update before this one
            return []
        chain.append(node)
        if node.target is aten.mm.default:
            return chain[::-1] if node.meta["val"].numel() == size else []
        if node.target is aten.convolution_backward.default:
            error, gradient, bias = tensors_of(node)
            alone = gradient is not None and error is None and bias is None
            return chain[::-1] if alone and gradient.numel() == size else []
        passes_on = node.target is operator.getitem or is_view(node) or torch.Tag.pointwise in node.target.tags
        made = [n for n in node.all_input_nodes if n.op == "call_function"]
        if not passes_on or len(made) != 1:
            return []
        node = made[0]
    return []
