"""Elementwise operations write over an operand that is not needed any more."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..step_graph import StepGraph
from ..values import base_of, is_view, makes_nothing, tensors_of
from .rewire import copy_of, recompiled

aten = torch.ops.aten


def write_in_place(step: StepGraph) -> StepGraph:
    """Let an elementwise operation write over an operand of its own shape and type that nothing reads afterwards."""
    step = copy_of(step)
    last_use, kept = {}, set()
    for node in step.graph.nodes:
        for read in node.all_input_nodes:
            if not makes_nothing(node) or node.op == "output":
                last_use[base_of(read)] = node
    for node in step.graph.nodes:
        if (
            makes_nothing(node)
            or {"in_place_of", "streamed"} & node.meta.keys()
            or torch.Tag.pointwise not in node.target.tags
        ):
            continue
        for operand in node.all_input_nodes:
            value, made = base_of(operand), node.meta["val"]
            held = tensors_of(value[0])[value[1]] if value[0].op == "call_function" else None
            if held is None or "streamed" in value[0].meta or last_use[value] is not node or value in kept:
                continue
            same = isinstance(operand.meta["val"], Tensor) and operand.meta["val"].shape == made.shape == held.shape
            if same and held.dtype == made.dtype and not _expanded(operand) and value[0].op != "placeholder":
                node.meta["in_place_of"] = operand
                kept.add(value)
                break
    return recompiled(step)


def _expanded(node: fx.Node) -> bool:
    while is_view(node):
        if node.target is aten.expand.default:
            return True
        node = node.args[0]
    return False
