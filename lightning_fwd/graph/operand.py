"""Typed access to what an fx node says of itself: arguments are of any kind, most callers know that theirs is a node."""

from __future__ import annotations

from typing import cast

from torch import Tensor, fx, nn


def operand(node: fx.Node, index: int = 0) -> fx.Node:
    """Argument ``index`` of a node, which is a node."""
    return cast(fx.Node, node.args[index])


def target_path(node: fx.Node) -> str:
    """The path that a ``call_module`` or ``get_attr`` node names, or a method's name."""
    return cast(str, node.target)


def module_of(node: fx.Node, root: nn.Module) -> nn.Module:
    """The module that a ``call_module`` node calls."""
    return root.get_submodule(target_path(node))


def output_of(graph: fx.Graph) -> fx.Node:
    """The graph's ``output`` node, whose argument is what the graph gives."""
    return next(n for n in reversed(graph.nodes) if n.op == "output")


def known_shape(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """A shape that capturing has recorded: of a node that makes one tensor it always has."""
    assert shape is not None, "the node makes several tensors or none"
    return shape


def given(value: Tensor | None) -> Tensor:
    """A tensor that must be there at this point."""
    assert value is not None
    return value
