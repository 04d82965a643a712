"""State is written as soon as it can be, over its old value."""

from __future__ import annotations

from ...graph.segment import ancestors
from ...trace.step_graph import StepGraph
from ...trace.values import base_of
from .rewire import copy_of, move_behind, order_of, reaches, readers_of, recompiled


def apply_updates_at_once(step: StepGraph) -> StepGraph:
    """Write each piece of state over its old value as soon as the new one can be made and nothing reads the old one any more."""
    step = copy_of(step)
    order = order_of(step)
    new_value = {name: node for name, node in step.results.items() if name in step.state and node.op == "call_function"}
    before = ancestors([n for n in step.graph.nodes if n.name in set(step.gradients.values())])
    optimizer = ancestors(list(new_value.values())) - before
    for node in sorted(optimizer, key=order.__getitem__):
        if node.op == "call_function" and node.meta["phase"] == "update":
            move_behind(step, node, max(node.all_input_nodes, key=order.__getitem__, default=node), order)
    for name, node in new_value.items():
        if base_of(node) != (node, 0) or node.meta["val"].shape != step.node(name).meta["val"].shape:
            continue
        readers = [r for r in readers_of(step.node(name)) if r is not node and r.op == "call_function"]
        if not any(reaches(node, r) for r in readers):
            move_behind(step, node, max([*readers, *node.all_input_nodes], key=order.__getitem__), order)
            node.meta["in_place_of"] = step.node(name)
    return recompiled(step)
