"""A stretch of an fx graph, compiled to a plain function of a root module and the values that flow in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn


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
            if node not in copies and node.op == "get_attr":  # parameters belong to every stretch that reads them
                copies[node] = graph.node_copy(node)
            return copies[node]

        for node in nodes:
            if node.op != "get_attr":
                fx.node.map_arg((node.args, node.kwargs), copy_of)
                copies[node] = graph.node_copy(node, copy_of)
        graph.output(tuple(copy_of(node) for node in outputs))
        code = graph.python_code("self")
        self.source, self._globals = code.src, code.globals
        self._function = None

    def __call__(self, root: nn.Module, *inputs: Any) -> tuple:
        if self._function is None:
            scope = dict(self._globals)
            exec(compile(self.source, "<segment>", "exec"), scope)
            self._function = scope["forward"]
        return self._function(root, *inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_function": None}  # compiled code does not pickle; it is rebuilt at the next call

    def __deepcopy__(self, memo: dict) -> Segment:
        return self  # immutable
