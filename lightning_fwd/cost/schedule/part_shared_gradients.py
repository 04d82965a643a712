"""A weight that is used several times is stepped by each of its gradients in turn, in place of their sum."""

from __future__ import annotations

import torch
from torch import fx

from ...trace.step_graph import StepGraph
from .rewire import copy_of, recompiled

aten = torch.ops.aten


def has_shared_gradients(step: StepGraph) -> bool:
    """Whether :func:`part_shared_gradients` would change anything."""
    return any(_sum_of(node) is not None for node in _updates(step))


def part_shared_gradients(step: StepGraph) -> StepGraph:
    """``w - lr (a + b)`` as ``(w - lr a) - lr b``: each gradient can then be streamed into its own update, and their sum is never stored.

    Of SGD's arithmetic alone, the momentum's included. The result is the same but for the order of the sum. What comes before the last
    update is marked ``meta["partial_update"]``.
    """
    step = copy_of(step)
    nodes = {n.name: n for n in step.graph.nodes}
    names = {nodes[node_name]: name for name, node_name in step.gradients.items()}
    waiting = _updates(step)
    while waiting:
        update = waiting.pop()
        if (total := _sum_of(update)) is None:
            continue
        first, second = total.args
        with step.graph.inserting_before(update):
            partial = step.graph.call_function(update.target, tuple(first if a is total else a for a in update.args), dict(update.kwargs))
        partial.meta = dict(update.meta) | {"partial_update": True}
        alpha = update.kwargs.get("alpha", 1) if update.args[1] is total else 1
        update.args, update.kwargs = (partial, second), {"alpha": alpha} if alpha != 1 else {}
        if total in names:
            step.gradients = {**step.gradients, names[total]: second.name}
            names[second] = names[total]
        step.graph.erase_node(total)
        waiting += [update, partial]
    return recompiled(step)


def _updates(step: StepGraph) -> list[fx.Node]:
    return [node for name, node in step.results.items() if name in step.state and node.target is aten.add.Tensor]


def _sum_of(update: fx.Node) -> fx.Node | None:
    """The gradient that this update adds, where it is a sum of two that nothing else reads."""
    for operand in update.args[:2]:
        is_sum = isinstance(operand, fx.Node) and operand.target is aten.add.Tensor and "partial_update" not in operand.meta
        if is_sum and len(operand.users) == 1 and not operand.kwargs and all(_made(a, update) for a in operand.args):
            return operand
    return None


def _made(term: object, update: fx.Node) -> bool:
    return isinstance(term, fx.Node) and term.op == "call_function" and term.meta["val"].shape == update.meta["val"].shape
