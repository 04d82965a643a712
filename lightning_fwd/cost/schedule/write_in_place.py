"""Elementwise operations write over an operand that is not needed any more."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from ...trace.step_graph import StepGraph
from ...trace.values import base_of, is_part, is_view, makes_nothing, numel, operands_read, runs_with, tensors_of
from .rewire import copy_of, recompiled

aten = torch.ops.aten
RESHAPES = (aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.squeeze.dims)


def write_in_place(step: StepGraph) -> StepGraph:
    """Let an elementwise operation write over an operand of its own size and type that nothing reads afterwards, nor it in another
    order."""
    step = copy_of(step)
    last_use, kept = {}, set()
    for node in step.graph.nodes:
        for read in operands_read(node):
            if not makes_nothing(node) or node.op == "output":
                last_use[base_of(read)] = runs_with(node)
    for node in step.graph.nodes:
        marked = {"in_place_of", "streamed"} & node.meta.keys()
        if makes_nothing(node) or marked or torch.Tag.pointwise not in node.target.tags:
            continue
        in_another_order = {base_of(n) for n, aligned in _reads(node, node.meta["val"]) if not aligned}
        for operand, _ in _reads(node, node.meta["val"]):
            value = base_of(operand)
            held = tensors_of(value[0])[value[1]] if value[0].op == "call_function" else None
            if held is None or last_use[value] is not node or value in kept | in_another_order:
                continue
            if held.numel() != numel(node):  # a part of it
                continue
            if operand.meta["val"].shape == node.meta["val"].shape and held.dtype == node.meta["val"].dtype:
                node.meta["in_place_of"] = operand
                kept.add(value)
                break
    return recompiled(step)


def _reads(node: fx.Node, made: Tensor, aligned: bool = True) -> Iterator[tuple[fx.Node, bool]]:
    """What an operation reads, through streamed ones, and whether entry by entry in the order of what it makes."""
    for operand in node.all_input_nodes:
        same = aligned and numel(operand) == made.numel()
        if "streamed" not in operand.meta:
            yield operand, same and _in_order(operand, made.numel())
        elif makes_nothing(operand):
            yield from _reads(operand, made, same and operand.target in RESHAPES)
        else:
            yield from _reads(operand, made, same and torch.Tag.pointwise in operand.target.tags)


def _in_order(node: fx.Node, size: int) -> bool:
    while is_view(node):
        if node.target not in RESHAPES:
            return False
        node = node.args[0]
    return numel(node) == size and not is_part(node)
