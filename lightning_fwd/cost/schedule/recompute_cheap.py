"""Activations made again in place of being kept."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...trace.step_graph import StepGraph
from ...trace.values import base_of, is_view, operands_read
from .rewire import copy_of, order_of, recompiled


def recompute_cheap(step: StepGraph) -> StepGraph:
    """Make an activation again for the backward phase where elementwise operations on what is kept anyway suffice; costs those
    operations."""
    step = copy_of(step)
    order, later = order_of(step), ("backward", "update")
    kept = {base_of(r)[0] for n in step.graph.nodes if n.meta["phase"] in later for r in operands_read(n)}
    for node in list(step.graph.nodes):
        users = sorted((u for u in node.users if u.meta["phase"] in later and node in operands_read(u)), key=order.__getitem__)
        if not users or node.op != "call_function" or node.meta["phase"] not in ("forward", "second_forward"):
            continue
        chain = _cheap_chain(node, kept - {node})
        if chain is None or len(users) == len(node.users):
            continue
        copies: dict[fx.Node, fx.Node] = {}
        for link in chain:
            with step.graph.inserting_before(users[0]):
                copies[link] = step.graph.node_copy(link, lambda n, copies=copies: copies.get(n, n))
        for user in users:
            user.replace_input_with(node, copies[node])
        kept.discard(node)
    return recompiled(step)


def _cheap_chain(node: fx.Node, kept: set[fx.Node], limit: int = 8) -> list[fx.Node] | None:
    """Elementwise nodes that make ``node`` from kept values and state, in order, or None."""
    chain: dict[fx.Node, None] = {}

    def visit(n: fx.Node) -> bool:
        if n.op == "placeholder" or n in chain or base_of(n)[0] in kept or _is_small(n):
            return True
        pointwise = isinstance(n.target, torch._ops.OpOverload) and torch.Tag.pointwise in n.target.tags
        if not (pointwise or is_view(n)) or len(chain) >= limit or not all(visit(i) for i in n.all_input_nodes):
            return False
        chain[n] = None
        return True

    return list(chain) if visit(node) and node in chain else None


def _is_small(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.numel() == max([1, *value.shape])  # a vector, whatever its dimensions
