"""State is written as soon as it can be, over its old value."""

from __future__ import annotations

from torch import fx

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
        written = step.node(name)
        for part in _parts(node):
            readers = [r for r in readers_of(written) if r is not part and r.op == "call_function"]
            if any(reaches(part, r) for r in readers):
                break
            move_behind(step, part, max([*readers, *part.all_input_nodes], key=order.__getitem__), order)
            part.meta["in_place_of"] = written
            written = part
    return recompiled(step)


def _parts(update: fx.Node) -> list[fx.Node]:
    """The updates of one weight by one gradient each, first to last."""
    before = next((n for n in update.all_input_nodes if "partial_update" in n.meta), None)
    return [*_parts(before), update] if before is not None else [update]
