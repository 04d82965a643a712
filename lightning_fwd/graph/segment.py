"""A stretch of an fx graph, compiled to a plain function of a root module and the values that flow in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from torch import fx, nn

from .constants import is_constant


class Segment:
    """Nodes of a graph as ``segment(root, *inputs) -> tuple of outputs``.

    The code is fx's own, so values die after their last use, and parameters are looked up on ``root`` at every call:
    a segment holds no tensor, survives ``.to()``, ``deepcopy`` and ``torch.func.functional_call``.

    Args:
        nodes: consecutive nodes of one graph, placeholders and output excluded.
        inputs: nodes outside the stretch whose values it uses.
        outputs: nodes of the stretch (or of ``inputs``) whose values are handed out.
    """

    def __init__(self, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]):
        graph, copies = fx.Graph(), {}
        for node in inputs:
            copies[node] = graph.placeholder(node.name)

        def copy_of(node: fx.Node) -> fx.Node:
            if node not in copies and is_constant(node):  # belongs to every stretch that reads it
                copies[node] = graph.node_copy(node, copy_of)
            return copies[node]

        for node in nodes:
            if not is_constant(node):
                fx.node.map_arg((node.args, node.kwargs), copy_of)
                copies[node] = graph.node_copy(node, copy_of)
        graph.output(tuple(copy_of(node) for node in outputs))
        code = graph.python_code("self")
        self.source, self._globals = code.src, code.globals
        self._function: Callable | None = None

    def __call__(self, root: nn.Module, *inputs: Any) -> tuple:
        if self._function is None:
            scope = dict(self._globals)
            exec(compile(self.source, "<segment>", "exec"), scope)
            self._function = cast(Callable, scope["forward"])
        return self._function(root, *inputs)

    def __getstate__(self) -> dict[str, Any]:
        """Compiled code and modules do not pickle: the code is rebuilt at the next call, modules are found by name."""
        names = {key: value.__name__ for key, value in self._globals.items() if isinstance(value, ModuleType)}
        rest = {key: value for key, value in self._globals.items() if key not in names}
        return {"source": self.source, "modules": names, "globals": rest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.source, self._function = state["source"], None
        self._globals = state["globals"] | {key: import_module(name) for key, name in state["modules"].items()}

    def __deepcopy__(self, memo: dict) -> Segment:
        return self  # immutable


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes and everything that they are made from."""
    stack, seen = list(nodes), set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += node.all_input_nodes
    return seen
