"""Which values of a captured graph only happen to have a first dimension as long as the batch (time first, with as many steps as
samples)."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .blocks import shape_of


def mark_other_leading_sizes(graph_module: fx.GraphModule, x: Tensor) -> None:
    """Set ``meta["batch_first"] = False`` on each node whose first dimension stays as it is when the example ``x`` has one sample more.

    That is one more run, made only where some other dimension is as long as the batch. Nothing is marked in a model that takes no other
    batch size.
    """
    count = x.shape[0]
    shapes = {node: shape_of(node) or () for node in graph_module.graph.nodes}
    if all(count not in shape[1:] for shape in shapes.values()):
        return
    run = _LeadingSizes(graph_module)
    try:
        with torch.no_grad():
            run.run(torch.cat([x, x[:1]]))
    except Exception:  # whatever a model made for one batch size raises
        return
    for node, shape in shapes.items():
        if shape[:1] == (count,) == run.found.get(node):
            node.meta["batch_first"] = False


class _LeadingSizes(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule):
        super().__init__(graph_module)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = tuple(result.shape[:1])
        return result
