"""Say for every node of a traced step which layer it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, fx, nn

from ..graph.phase import layer


@contextmanager
def annotate_layers(model: nn.Module) -> Iterator[None]:
    """While tracing: what a module runs, and what autograd runs for it, belongs to the module's path (innermost first).

    A module that a pass put in the place of a layer (``uses`` names the layer's parameters) counts as that layer.
    """
    open_layers: list[ExitStack] = []
    owned: set[torch.autograd.graph.Node] = set()  # keeps the nodes alive, and each with one owner

    def enter(path: str) -> None:
        open_layers.append(ExitStack())
        open_layers[-1].enter_context(layer(path))

    def leave() -> None:
        open_layers.pop().close()

    def claim(path: str, inputs: tuple, output: object) -> None:
        stop = {t.grad_fn for t in inputs if isinstance(t, Tensor)}
        outputs = output if isinstance(output, tuple | list) else (output,)
        stack = [t.grad_fn for t in outputs if isinstance(t, Tensor)]
        while stack:
            node = stack.pop()
            if node is None or node in stop or node in owned:
                continue
            owned.add(node)
            node.register_prehook(lambda _grads: enter(path))
            node.register_hook(lambda _in, _out: leave())
            stack += [following for following, _ in node.next_functions]

    handles = []
    for name, module in model.named_modules():
        if not name:
            continue
        path = module.uses[0].rpartition(".")[0] if getattr(module, "uses", ()) else name

        def leave_and_claim(_module: nn.Module, inputs: tuple, output: object, path: str = path) -> None:
            leave()
            claim(path, inputs, output)

        handles.append(module.register_forward_pre_hook(lambda _m, _a, path=path: enter(path)))
        handles.append(module.register_forward_hook(leave_and_claim))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        while open_layers:
            leave()


def complete_labels(graph: fx.Graph, state: dict[fx.Node, str], model: nn.Module) -> None:
    """Give every node ``meta["phase"]`` and ``meta["layer"]``.

    Operations outside any module (a residual addition, a functional layer) belong to the owner of the parameter they read, else to the
    layer that made their latest input, else (constants, labels) to the first that reads them. The user's loss belongs to none.

    Args:
        state: placeholder to the name of its parameter or buffer.
    """
    trainable = {name for name, _ in model.named_parameters()}
    owner = {node: name.rpartition(".")[0] for node, name in state.items() if name in trainable}
    order: dict[fx.Node, int] = {}
    for index, node in enumerate(graph.nodes):
        order[node] = index
        custom = node.meta.get("custom") or {}
        reads = [n for n in node.all_input_nodes if n.op != "placeholder"]
        latest = max(reads, key=order.__getitem__, default=None)
        node.meta["phase"] = custom.get("phase") or (latest.meta["phase"] if latest is not None else "forward")
        read_owners = [owner[n] for n in node.all_input_nodes if n in owner]
        if node.op == "placeholder":
            label = state.get(node, "").rpartition(".")[0]
        elif "layer" in custom:
            label = custom["layer"]
        elif read_owners:
            label = read_owners[0]
        else:
            label = latest.meta["layer"] if latest is not None else ""
        node.meta["layer"] = label
        if node.op == "call_function" and read_owners and isinstance(node.meta.get("val"), Tensor):
            if node.target in (torch.ops.aten.t.default, torch.ops.aten.view.default, torch.ops.aten.permute.default):
                owner[node] = read_owners[0]  # a view of a parameter
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.meta["layer"] and "layer" not in (node.meta.get("custom") or {}):
            node.meta["layer"] = next((u.meta["layer"] for u in node.users if u.op != "output" and u.meta["layer"]), "")
