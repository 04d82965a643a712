"""What the passes share: copies of a step, and questions about who reads what."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

from torch import fx

from ...trace.step_graph import StepGraph
from ...trace.values import is_view


def copy_of(step: StepGraph) -> StepGraph:
    """The same step on nodes of its own (metadata shared, except for what scheduling adds)."""
    graph, copies = fx.Graph(), {}
    for node in step.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        copies[node].meta = dict(node.meta)
    for node in copies.values():
        if "in_place_of" in node.meta:
            node.meta["in_place_of"] = copies[node.meta["in_place_of"]]
    return replace(step, module=_CompiledWhenRun(step.module, graph))


def recompiled(step: StepGraph) -> StepGraph:
    step.graph.lint()
    step.module.recompile()
    return step


class _CompiledWhenRun(fx.GraphModule):
    """A graph whose code is written when it is run or asked for: of the many graphs that scheduling makes, most never are."""

    def recompile(self) -> Any:
        self.__dict__.pop("_code", None)
        type(self).forward = _compile_and_run  # a graph module has a class of its own

    def __getattr__(self, name: str) -> Any:
        if name != "_code":
            return super().__getattr__(name)
        return fx.GraphModule.recompile(self).src


def _compile_and_run(module: fx.GraphModule, *args: Any) -> Any:
    fx.GraphModule.recompile(module)  # puts the real forward in this one's place
    return module.forward(*args)


def output_of(step: StepGraph) -> fx.Node:
    return next(n for n in reversed(step.graph.nodes) if n.op == "output")


def order_of(step: StepGraph) -> dict[fx.Node, int]:
    return {node: i for i, node in enumerate(step.graph.nodes)}


def move_behind(step: StepGraph, node: fx.Node, anchor: fx.Node, order: dict[fx.Node, int]) -> None:
    """Move a node to right behind another one (or leave it, where it stands before), keeping ``order`` comparable."""
    if anchor is node:
        return
    anchor.append(node)
    order.update(order_of(step))


def readers_of(node: fx.Node) -> set[fx.Node]:
    """Everything that reads a value's memory, through views."""
    found = set()
    for user in node.users:
        found |= {user, *readers_of(user)} if is_view(user) or user.target is operator.getitem else {user}
    return found


def reaches(start: fx.Node, goal: fx.Node) -> bool:
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node is goal:
            return True
        if node not in seen:
            seen.add(node)
            stack += node.users
    return False
