"""Elementwise operations in one loop: what only the rest of the loop reads, entry by entry, is never stored."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from ...trace.step_graph import StepGraph
from ...trace.values import is_view, makes_nothing, numel, runs_with
from .rewire import copy_of, order_of, readers_of, recompiled
from .write_in_place import RESHAPES

aten = torch.ops.aten
_COPIES = (aten.clone.default, aten._to_copy.default)
_CONSTANTS = (aten.full.default, aten.full_like.default, aten.arange.start_step)
_REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim)


def fuse_elementwise(step: StepGraph) -> StepGraph:
    """Mark elementwise values that one loop makes and takes, each entry once (``meta["streamed"]``): they take no memory.

    The loop ends in an elementwise operation or a reduction: the mask of a ReLU's backward with its product, the products under a batch
    norm's
    sums, the rounds of a random draw. What a loop reads lives until its end. The nodes stay in the graph, right before the end.
    """
    step = copy_of(step)
    order = order_of(step)
    overwrites: dict[fx.Node, fx.Node] = {}  # a reader of state, to what first writes over that state
    for node in reversed(order):
        if "in_place_of" in node.meta:
            overwrites |= dict.fromkeys(readers_of(node.meta["in_place_of"]) - {node}, node)
    ends: dict[fx.Node, fx.Node] = {}  # what becomes part of a loop, to the operation that ends it
    for node in reversed(order):
        if node.op != "call_function" or makes_nothing(node) or {"in_place_of", "streamed"} & node.meta.keys():
            continue
        if not (_is_elementwise(node) or node.target in _CONSTANTS) or not isinstance(node.meta["val"], Tensor):
            continue
        end, views = _end_of_loop(node)
        late = end is not None and node in overwrites and order[overwrites[node]] <= order[end]
        if end is None or late and not (overwrites[node] is end and set(node.users) == {end}):
            continue  # it has to be stored; or would read state after it was written over
        for n in (node, *views):
            n.meta["streamed"] = True
            ends[n] = end
    for node, end in sorted(ends.items(), key=lambda item: order[item[0]]):
        end.prepend(node)
    return recompiled(step)


def _end_of_loop(node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """The operation that ends the loop which alone reads a node, and the views in between; None where the node has to be stored."""
    reads = list(_reads_of(node))
    ends = {runs_with(reader) for reader, _, _ in reads}
    if len(ends) != 1:
        return None, []
    for reader, _, in_order in reads:
        whole = _is_elementwise(reader) and numel(reader) == numel(node)  # else a broadcast: each entry is read many times
        if not (whole or reader.target in _REDUCTIONS) or not (in_order or len(reads) == 1):
            return None, []
    return ends.pop(), [view for _, views, _ in reads for view in views]


def _reads_of(node: fx.Node, in_order: bool = True) -> Iterator[tuple[fx.Node, list[fx.Node], bool]]:
    """Each operation that reads a node, the views through which it does, and whether these keep the order of entries."""
    for user in node.users:
        if is_view(user) and numel(user) == numel(node):
            for reader, views, kept in _reads_of(user, in_order and user.target in RESHAPES):
                yield reader, [user, *views], kept
        else:
            yield user, [], in_order


def _is_elementwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target in _COPIES
