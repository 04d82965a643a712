"""Passes over a step graph that lower its peak memory and leave its numbers as they are.

Each takes a :class:`StepGraph` and gives a new one. Memory that a node writes over is recorded as ``meta["in_place_of"]`` (a node): the graph stays a
pure function, and the planner, the exporter or a kernel may use the permission.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, fx

from .memory import MemoryPlan, plan_memory
from .step_graph import StepGraph
from .values import Value, base_of, is_view, makes_nothing, tensors_of
from .widths import Widths

aten = torch.ops.aten


def apply_updates_at_once(step: StepGraph) -> StepGraph:
    """Write each piece of state over its old value as soon as the new one can be made and nothing reads the old one any more."""
    step = copy_of(step)
    order = _order(step)
    new_value = {name: node for name, node in step.results.items() if name in step.state and node.op == "call_function"}
    before = _ancestors([n for n in step.graph.nodes if n.name in set(step.gradients.values())])
    for node in sorted(
        _ancestors(list(new_value.values())) - before, key=order.__getitem__
    ):  # the optimizer's own arithmetic
        if node.op == "call_function" and node.meta["phase"] == "update":
            _move_behind(step, node, max(node.all_input_nodes, key=order.__getitem__, default=node), order)
    for name, node in new_value.items():
        if base_of(node) != (node, 0) or node.meta["val"].shape != step.node(name).meta["val"].shape:
            continue
        readers = [r for r in _readers(step.node(name)) if r is not node and r.op == "call_function"]
        if not any(_reaches(node, r) for r in readers):
            _move_behind(step, node, max([*readers, *node.all_input_nodes], key=order.__getitem__), order)
            node.meta["in_place_of"] = step.node(name)
    return _recompiled(step)


def split_convolution_backward(step: StepGraph) -> StepGraph:
    """Weight gradient first, then the error to the input: the layer's input dies in between."""
    step = copy_of(step)
    for node in list(step.graph.nodes):
        if node.target is not aten.convolution_backward.default or not (node.args[-1][0] and node.args[-1][1]):
            continue
        for mask in ([False, *node.args[-1][1:]], [True, False, False]):
            with step.graph.inserting_before(node):
                part = step.graph.create_node("call_function", node.target, (*node.args[:-1], mask))
            part.meta = {
                **node.meta,
                "val": tuple(v if m else None for v, m in zip(node.meta["val"], mask, strict=True)),
            }
            for user in list(node.users):
                if mask[user.args[1]]:
                    user.replace_input_with(node, part)
                    part.append(user)
        step.graph.erase_node(node)
    return _recompiled(step)


def reorder(step: StepGraph, widths: Widths) -> StepGraph:
    """Run next, of all nodes that could run, the one that leaves least alive (list scheduling).

    What is made of state alone (batch norm's scale, random draws) runs right before its first reader.
    """
    step = copy_of(step)
    nodes = [n for n in step.graph.nodes if n.op == "call_function"]
    index = {n: i for i, n in enumerate(nodes)}
    from_state: set[fx.Node] = {n for n in step.graph.nodes if n.op == "placeholder" and n.name not in step.inputs.values()}
    for node in nodes:
        if "in_place_of" not in node.meta and all(n in from_state for n in node.all_input_nodes):
            from_state.add(node)
    waits_for = {n: {i for i in n.all_input_nodes if i.op == "call_function" and i not in from_state} for n in nodes}
    for node in nodes:  # what overwrites state waits for its readers
        if "in_place_of" in node.meta:
            readers = {r for r in _readers(node.meta["in_place_of"]) if r.op == "call_function"}
            waits_for[node] |= readers - (_ancestors([node]) & from_state) - {node}
    waiting: dict[fx.Node, list[fx.Node]] = {n: [] for n in nodes}
    for node, needed in waits_for.items():
        for other in needed:
            waiting[other].append(node)
    uses: dict[Value, set[fx.Node]] = {}
    for node in step.graph.nodes:
        for read in node.all_input_nodes:
            if not makes_nothing(node) or node.op == "output":
                uses.setdefault(base_of(read), set()).add(node)

    def growth(node: fx.Node) -> int:
        if makes_nothing(node):
            return -(1 << 60)  # names of memory that is there: at once
        made = 0 if "in_place_of" in node.meta else sum(widths.bytes(node, i) for i in range(len(tensors_of(node))))
        dying = {v for v in map(base_of, node.all_input_nodes) if v[0].op == "call_function" and uses[v] == {node}}
        return made - sum(widths.bytes(*value) for value in dying)

    ready = [n for n in nodes if not waits_for[n] and (n not in from_state or set(n.users) & {_output(step)})]
    done: set[fx.Node] = set()

    def run(node: fx.Node) -> None:
        for constant in sorted((n for n in node.all_input_nodes if n in from_state and n in index), key=index.__getitem__):
            if constant not in done:
                run(constant)
        _output(step).prepend(node)
        done.add(node)
        for value in map(base_of, node.all_input_nodes):
            uses.get(value, set()).discard(node)
        for other in waiting[node]:
            waits_for[other].discard(node)
            if not waits_for[other] and other not in from_state:
                ready.append(other)

    while ready:
        node = min(ready, key=lambda n: (growth(n), index[n]))
        ready.remove(node)
        if node not in done:
            run(node)
    assert len(done) == len(nodes), "the constraints of the step contradict each other"
    return _recompiled(step)


def write_in_place(step: StepGraph) -> StepGraph:
    """Let an elementwise operation write over an operand of its own shape and type that nothing reads afterwards."""
    step = copy_of(step)
    last_use, kept = {}, set()
    for node in step.graph.nodes:
        for read in node.all_input_nodes:
            last_use[base_of(read)] = (
                node if not makes_nothing(node) or node.op == "output" else last_use.get(base_of(read))
            )
    homes: dict[Value, Value] = {}  # a value that was written over: to where it lies, whose life goes on
    for node in step.graph.nodes:
        if makes_nothing(node) or "in_place_of" in node.meta or torch.Tag.pointwise not in node.target.tags:
            continue
        for operand in node.all_input_nodes:
            value, made = base_of(operand), node.meta["val"]
            held = tensors_of(value[0])[value[1]] if value[0].op == "call_function" else None
            if held is None or last_use[value] is not node or value in kept:
                continue
            same = isinstance(operand.meta["val"], Tensor) and operand.meta["val"].shape == made.shape == held.shape
            if same and held.dtype == made.dtype and not _expanded(operand) and value[0].op != "placeholder":
                node.meta["in_place_of"] = operand
                homes[node, 0] = value
                kept.add(value)
                break
    return _recompiled(step)


def recompute_cheap(step: StepGraph) -> StepGraph:
    """Make an activation again for the backward phase where elementwise operations on what is kept anyway suffice; costs those operations."""
    step = copy_of(step)
    order, later = _order(step), ("backward", "update")
    kept = {base_of(r)[0] for n in step.graph.nodes if n.meta["phase"] in later for r in n.all_input_nodes}
    for node in list(step.graph.nodes):
        users = sorted((u for u in node.users if u.meta["phase"] in later), key=order.__getitem__)
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
    return _recompiled(step)


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


PASSES: tuple[tuple[str, Callable], ...] = (
    ("weight gradient before error", lambda step, _: split_convolution_backward(step)),
    ("updates applied at once, in place", lambda step, _: apply_updates_at_once(step)),
    ("reordered", reorder),
    ("elementwise in place", lambda step, _: write_in_place(step)),
)


def schedule(step: StepGraph, width: str, recompute: bool = False) -> tuple[StepGraph, list[tuple[str, MemoryPlan]]]:
    """Run all passes.

    Args:
        recompute: also :func:`recompute_cheap`, which trades operations for memory.

    Returns:
        the scheduled step, and the memory plan as traced and after each pass; a pass that would raise the peak is not kept.
    """
    passes = [("recomputed", lambda step, _: recompute_cheap(step))] if recompute else []
    plans = [("as traced", plan_memory(step, Widths(step, width)))]
    for name, transform in [*passes, *PASSES]:
        candidate = transform(step, Widths(step, width))
        plan = plan_memory(candidate, Widths(candidate, width))
        if plan.peak_bytes <= plans[-1][1].peak_bytes:
            step = candidate
        else:
            plan = plans[-1][1]
        plans.append((name, plan))
    return step, plans


def copy_of(step: StepGraph) -> StepGraph:
    """The same step on nodes of its own (metadata shared, except for what scheduling adds)."""
    graph, copies = fx.Graph(), {}
    for node in step.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
    for node in copies.values():
        if "in_place_of" in node.meta:
            node.meta["in_place_of"] = copies[node.meta["in_place_of"]]
    return replace(step, module=fx.GraphModule(step.module, graph))


def _recompiled(step: StepGraph) -> StepGraph:
    step.graph.lint()
    step.module.recompile()
    return step


def _output(step: StepGraph) -> fx.Node:
    return next(n for n in reversed(step.graph.nodes) if n.op == "output")


def _order(step: StepGraph) -> dict[fx.Node, int]:
    return {node: i for i, node in enumerate(step.graph.nodes)}


def _move_behind(step: StepGraph, node: fx.Node, anchor: fx.Node, order: dict[fx.Node, int]) -> None:
    """Move a node to right behind another one (or leave it, where it stands before), keeping ``order`` comparable."""
    if anchor is node:
        return
    anchor.append(node)
    order.update(_order(step))


def _readers(node: fx.Node) -> set[fx.Node]:
    """Everything that reads a value's memory, through views."""
    found = set()
    for user in node.users:
        found |= {user, *_readers(user)} if is_view(user) or user.target is operator.getitem else {user}
    return found


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes and everything that they are made from."""
    stack, seen = list(nodes), set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += node.all_input_nodes
    return seen


def _reaches(start: fx.Node, goal: fx.Node) -> bool:
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node is goal:
            return True
        if node not in seen:
            seen.add(node)
            stack += node.users
    return False


def _expanded(node: fx.Node) -> bool:
    while is_view(node):
        if node.target is aten.expand.default:
            return True
        node = node.args[0]
    return False
