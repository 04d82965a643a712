"""Where an int8 body ends and the float part begins.

The boundary is not chosen here. It is where the traced step stops being a function of the input and of frozen weights alone, so the
scheme that selected the trained layers has chosen it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.trace.step_graph import StepGraph

from .errors import ExportError

aten = torch.ops.aten
# What only moves values is left to the float part where the values cross anyway: no second crossing of the same numbers.
_MOVES = {
    aten.constant_pad_nd.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.slice.Tensor,
    aten.select.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
}


def frozen_boundary(step: StepGraph) -> list[fx.Node]:
    """The values that leave the part of a step that depends on the input and on nothing that learns, in the order they are computed.

    A residual block that trains has several: what its convolutions read and what its shortcut adds.

    Raises:
        ExportError: there is no such part, or the part that learns reads the input itself.
    """
    changing = {step.node(name) for name in step.mutated} | {step.node(n) for n in ("target",) if n in step.inputs}
    source, of_input, frozen = step.node("input"), set(), set()
    for node in step.graph.nodes:
        if node.op == "output" or node in changing or any(n not in frozen for n in node.all_input_nodes):
            continue
        frozen.add(node)
        if node is source or any(n in of_input for n in node.all_input_nodes):
            of_input.add(node)
    leaving = [n for n in step.graph.nodes if n in of_input and any(user not in frozen for user in n.users)]
    while moved := [n for n in leaving if n.target in _MOVES and n.args[0] in leaving]:
        leaving = [n for n in leaving if n not in moved]
    if not leaving or source in leaving:
        raise ExportError(
            "int8 needs a frozen part before the first trained layer, and in this step what trains reads the input itself",
            "the input comes in int8, and what trains does so in float",
            "train fewer layers (for example sparse_update of the last ones), or export in float",
        )
    return leaving


def body_module(model: RewrittenModel, step: StepGraph, boundary: list[fx.Node], x: Tensor) -> fx.GraphModule:
    """The original layers up to the boundary: per value the last one of the captured graph that equals the traced one on ``x``.

    Raises:
        ExportError: none does.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    values: dict[fx.Node, Any] = {}
    traced = values_of(step, model, x)
    found: dict[fx.Node, fx.Node] = {}
    model.eval()
    for node in model.graph_before.nodes:
        if node.op == "output":
            break
        copied[node] = graph.node_copy(node, copied.__getitem__)
        values[node] = _run(node, values, model, x)
        found |= {wanted: copied[node] for wanted in boundary if same_values(values[node], traced[wanted])}
    for wanted in boundary:
        if wanted not in found:
            raise ExportError(
                f"no layer's output equals what crosses into the trained part in {wanted.meta.get('layer') or 'no layer'}",
                "the int8 body is made of the network's own layers",
                "start training at the input of a block, or export in float",
            )
    graph.output(tuple(found[wanted] for wanted in boundary))
    body = fx.GraphModule(model, graph)
    body.graph.eliminate_dead_code()
    body.recompile()
    return body.eval()


def same_values(a: Any, b: Any) -> bool:
    """Whether two values are one tensor but for rounding."""
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
    return tensors and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def values_of(step: StepGraph, model: nn.Module, x: Tensor) -> dict[fx.Node, Any]:
    """What the traced graph holds for this input, at every node that no target is needed for."""
    known = dict([*model.named_parameters(), *model.named_buffers()]) | {"input": x}
    names = {n: name for name, n in (step.inputs | step.state).items()}
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in step.graph.nodes:
            if node.op == "placeholder" and names[node.name] in known:
                value = known[names[node.name]]
                values[node] = value.detach() if isinstance(value, Tensor) else value
            elif node.op == "call_function" and all(n in values for n in node.all_input_nodes):
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    return values


def _run(node: fx.Node, values: dict[fx.Node, Any], model: nn.Module, x: Tensor) -> Any:
    if node.op == "placeholder":
        return x
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        if node.op == "get_attr":
            value: Any = model
            for part in node.target.split("."):
                value = getattr(value, part)
            return value
        if node.op == "call_module":
            return model.get_submodule(node.target)(*args, **kwargs)
        return node.target(*args, **kwargs) if node.op == "call_function" else getattr(args[0], node.target)(*args[1:], **kwargs)
