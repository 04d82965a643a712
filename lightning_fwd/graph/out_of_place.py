"""No operation of a captured graph writes into a tensor: activations are read after the node that made them (goodness, PEPITA's h)."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from .operand import module_of, target_path

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.imatmul: operator.matmul,
    operator.ipow: operator.pow,
}


def remove_inplace(graph_module: fx.GraphModule) -> None:
    """Replace each in-place operation by its out-of-place twin, and let later readers of what it overwrote read its result."""
    nodes = list(graph_module.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        if _make_out_of_place(node, graph_module) and isinstance(node.args[0] if node.args else None, fx.Node):
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, node=node: order[user] > order[node])
    graph_module.recompile()


def _make_out_of_place(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return getattr(module_of(node, root), "inplace", False) is True
    if node.op in ("call_function", "call_method") and node.kwargs.get("inplace"):
        node.update_kwarg("inplace", False)
        return True
    name: str = target_path(node) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op == "call_function" and node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__"):
        twin = getattr(Tensor if node.op == "call_method" else torch, name[:-1], None)
        if twin is None:
            return False
        node.target = name[:-1] if node.op == "call_method" else twin
    else:
        return False
    return True


@contextmanager
def activations_out_of_place(net: nn.Module) -> Iterator[None]:
    """Run ``net`` with ``nn.ReLU(inplace=True)`` and its like out of place."""
    changed = make_activations_out_of_place(net)
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True  # type: ignore[assignment]


def make_activations_out_of_place(net: nn.Module) -> list[nn.Module]:
    """Set ``inplace = False`` wherever it was True, and say where."""
    changed = [module for module in net.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False  # type: ignore[assignment]
    return changed
