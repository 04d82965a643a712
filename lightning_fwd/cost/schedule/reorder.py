"""The order of operations in which least is alive."""

from __future__ import annotations

from torch import fx

from ...graph.segment import ancestors
from ...trace.step_graph import StepGraph
from ...trace.values import Value, base_of, makes_nothing, operands_read, tensors_of
from ..widths import Widths
from .rewire import copy_of, output_of, readers_of, recompiled


def reorder(step: StepGraph, widths: Widths) -> StepGraph:
    """Run next, of all nodes that could run, the one that leaves least alive (list scheduling).

    What is made of state alone (batch norm's scale, random draws) and gradients that are streamed run right before their reader.
    """
    step = copy_of(step)
    nodes = [n for n in step.graph.nodes if n.op == "call_function"]
    index = {n: i for i, n in enumerate(nodes)}
    from_state = {n for n in step.graph.nodes if n.op == "placeholder" and n.name not in step.inputs.values()}
    for node in nodes:
        if "in_place_of" not in node.meta and all(n in from_state for n in node.all_input_nodes):
            from_state.add(node)
    on_demand = from_state | {n for n in nodes if "streamed" in n.meta}

    waits_for: dict[fx.Node, set[fx.Node]] = {}  # what has to be there before a node runs, what runs on its demand looked through
    for node in nodes:
        read = [n for n in node.all_input_nodes if n.op == "call_function"]
        waits_for[node] = set().union(*(waits_for[n] if n in on_demand else {n} for n in read))
    for node in nodes:  # what overwrites state waits for its readers
        if "in_place_of" in node.meta:
            written = base_of(node.meta["in_place_of"])
            readers = {r for r in readers_of(node.meta["in_place_of"]) if r.op == "call_function"}
            readers -= {r for r in readers if r in on_demand and all(base_of(n) != written for n in operands_read(r))}  # only named there
            waits_for[node] |= readers - (ancestors([node]) & on_demand) - {node}
    waiting: dict[fx.Node, list[fx.Node]] = {n: [] for n in nodes}
    for node, needed in waits_for.items():
        for other in needed:
            waiting[other].append(node)
    uses: dict[Value, set[fx.Node]] = {}
    for node in step.graph.nodes:
        for read in operands_read(node):
            if not makes_nothing(node) or node.op == "output":
                uses.setdefault(base_of(read), set()).add(node)

    def growth(node: fx.Node) -> int:
        if makes_nothing(node):
            return -(1 << 60)  # names of memory that is there: at once
        made = 0 if "in_place_of" in node.meta else sum(widths.bytes(node, i) for i in range(len(tensors_of(node))))
        group = {node, *_streamed_into(node)}
        read = {base_of(i) for n in group for i in operands_read(n)}
        dying = {v for v in read if v[0].op == "call_function" and v[0] not in group and uses[v] <= group}
        return made - sum(widths.bytes(*value) for value in dying)

    ready = [n for n in nodes if not waits_for[n] and (n not in on_demand or output_of(step) in n.users)]
    done: set[fx.Node] = set()

    def run(node: fx.Node) -> None:
        for read in sorted((n for n in node.all_input_nodes if n in on_demand and n in index), key=index.__getitem__):
            if read not in done:
                run(read)
        output_of(step).prepend(node)
        done.add(node)
        for value in map(base_of, node.all_input_nodes):
            uses.get(value, set()).discard(node)
        for other in waiting[node]:
            waits_for[other].discard(node)
            if not waits_for[other] and other not in on_demand:
                ready.append(other)

    while ready:
        node = min(ready, key=lambda n: (growth(n), index[n]))
        ready.remove(node)
        if node not in done:
            run(node)
    assert len(done) == len(nodes), "the constraints of the step contradict each other"
    return recompiled(step)


def _streamed_into(node: fx.Node) -> list[fx.Node]:
    """The streamed nodes that run as part of this update."""
    found = []
    for read in node.all_input_nodes:
        if "streamed" in read.meta:
            found += [read, *_streamed_into(read)]
    return found
