"""A network with what its learning reads as further outputs: the features before the last layer, and pooled channels of normalised
layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lightning_fwd.graph.blocks import shape_of
from lightning_fwd.graph.capture import capture

from ..errors import ExportError
from ..foreign import own_copy
from .respell import respell


@dataclass(frozen=True)
class Tapped:
    """A copy of the network that returns ``(logits, features, *taps)``.

    Attributes:
        head: path of the last, linear layer; ``features (B, F)`` are its input.
        layers: paths of the convolutions under batch norm, in the order of execution; each has a tap ``(B, C)``: the mean over positions of
            what the NPU stores for it, after batch norm and, where a ReLU follows at once, after that.
        norms: their batch norms, by the layers' paths.
    """

    module: fx.GraphModule
    head: str
    layers: tuple[str, ...]
    norms: Mapping[str, nn.BatchNorm2d]


def insert_taps(net: nn.Module, example: Tensor) -> Tapped:
    """Trace a classifier and add the outputs.

    Args:
        net: in any mode; a copy in eval mode is taken.
        example: one input ``(1, ...)``.

    Raises:
        CaptureError: the network cannot be traced.
        ExportError: it does not end in a linear layer, or has no convolution under batch norm.
    """
    module = capture(own_copy(net), example).graph_module
    respell(module)
    graph = module.graph
    (result,) = graph.find_nodes(op="output")
    head = result.args[0]
    if not _runs(head, module, nn.Linear):
        last = getattr(head.target, "__name__", head.target) if isinstance(head, fx.Node) else type(head).__name__
        raise ExportError(
            f"{type(net).__name__} does not end in a linear layer but in {last}",
            "its last linear layer is what learns on the CPU",
            "return the logits as nn.Linear gives them, without softmax or the like",
        )
    taps = {node.target: stored_by(node, module) for node in graph.nodes if _runs(node, module, nn.Conv2d) and _normalised(node, module)}
    if not taps:
        raise ExportError(f"{type(net).__name__} has no convolution under batch norm", *_why_none(module))
    with graph.inserting_before(result):
        pooled = [_pooled(graph, node) for node in taps.values()]
    result.args = ((head, head.args[0], *pooled),)
    graph.lint()
    module.recompile()
    convolutions = [node for node in graph.nodes if node.target in taps]
    norms = {str(node.target): module.get_submodule(next(iter(node.users)).target) for node in convolutions}
    return Tapped(module, str(head.target), tuple(norms), norms)


def _why_none(module: fx.GraphModule) -> tuple[str, str]:
    """Why no convolution is under batch norm, and what to do."""
    why, convolutions = "their statistics are what is learned without labels", [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    others = sorted({type(m).__name__ for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv3d | nn.ConvTranspose2d)})
    if convolutions:
        return f"{why}, and no nn.BatchNorm2d alone reads one", "keep batch norms apart from their convolutions, each right behind its own"
    if "Conv1d" in others:
        return (
            f"known is nn.Conv2d, and it has {', '.join(others)}",
            "write (C, T) as (C, T, 1), with nn.Conv2d(..., (k, 1)) and nn.BatchNorm2d",
        )
    if others:
        return f"known is nn.Conv2d, and it has {', '.join(others)}", "take a network of nn.Conv2d"
    return why, "take a network of nn.Conv2d under nn.BatchNorm2d"


def _runs(node: fx.Node, module: nn.Module, kind: type[nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(module.get_submodule(node.target), kind)


def _normalised(node: fx.Node, module: nn.Module) -> fx.Node | None:
    """The batch norm that alone reads a convolution."""
    users = list(node.users)
    return users[0] if len(users) == 1 and _runs(users[0], module, nn.BatchNorm2d) else None


def stored_by(convolution: fx.Node, module: nn.Module) -> fx.Node:
    """What the NPU keeps: batch norm is folded into the convolution, and a ReLU that alone reads it becomes its clamp."""
    norm = _normalised(convolution, module)
    users = list(norm.users)
    return users[0] if len(users) == 1 and _runs(users[0], module, nn.ReLU) else norm


def _pooled(graph: fx.Graph, node: fx.Node) -> fx.Node:
    mean = graph.call_function(nn.functional.avg_pool2d, (node, tuple(shape_of(node)[2:])), {"stride": 1})
    return graph.call_function(torch.flatten, (mean, 1))
