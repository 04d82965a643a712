"""Where a graph's trained part begins: what comes before runs once, and nothing in it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from .blocks import parameters_of
from .constants import is_constant
from .segment import Segment, ancestors


@dataclass
class Split:
    """A graph in two parts.

    Attributes:
        before: ``(root, x) -> values of entries``: the nodes that no trained parameter reaches.
        entries: nodes whose values the rest reads. after: the nodes of the rest, in order. output: the logits' node.
    """

    before: Segment
    entries: list[fx.Node]
    after: list[fx.Node]
    output: fx.Node


def split_frozen(graph: fx.Graph, root: nn.Module, trained: set[str]) -> Split:
    """Divide what leads to the logits by whether the named parameters have a part in it."""
    output = next(n for n in graph.nodes if n.op == "output").args[0]
    x = next(n for n in graph.nodes if n.op == "placeholder")
    leads_there = ancestors([output])
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output") and not is_constant(n) and n in leads_there]
    reached: set[fx.Node] = set()
    for node in nodes:
        if set(parameters_of(node, root)) & trained or any(n in reached for n in node.all_input_nodes):
            reached.add(node)
    read = {i for n in reached for i in n.all_input_nodes}
    placeholders = {n for n in graph.nodes if n.op == "placeholder" and n is not x}
    entries = [n for n in graph.nodes if n in read - reached - placeholders and not is_constant(n)]
    before = Segment([n for n in nodes if n not in reached], [x], entries)
    return Split(before, entries, [n for n in nodes if n in reached], output)
