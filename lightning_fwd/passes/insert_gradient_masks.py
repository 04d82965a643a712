"""Let a layer learn only part of its weight: the rest gets a gradient of exactly zero."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import RewriteError
from ..graph.blocks import layer_of
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel


class MaskedGradient(nn.Module):
    """Runs a layer it does not own, with a mask on the gradient of one parameter.

    Args:
        path: the layer's path in the model; layer: the layer itself.
        mask: 1 where the weight learns, 0 where it does not; broadcasts to the parameter.
        parameter: its name in the layer.
    """

    def __init__(self, path: str, layer: nn.Module, mask: Tensor, parameter: str = "weight"):
        super().__init__()
        self.__dict__["layer"] = layer  # not registered: the layer keeps its own place and names
        self.parameter = parameter
        self.uses = tuple(f"{path}.{name}" for name, _ in layer.named_parameters())
        self.register_buffer("mask", mask.to(getattr(layer, parameter)))

    def forward(self, x: Tensor) -> Tensor:
        weight = getattr(self.layer, self.parameter)
        # w*m + (w - w*m).detach() would round; this keeps the forward value to the bit
        masked = _MaskGradient.apply(weight, self.mask)
        return functional_call(self.layer, {self.parameter: masked}, (x,))


class _MaskGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (mask,) = ctx.saved_tensors
        return grad * mask, None


def insert_gradient_masks(model: RewrittenModel, masks: dict[str, Tensor]) -> None:
    """Put a :class:`MaskedGradient` in the place of each named layer.

    Args:
        masks: layer path to mask, broadcastable to the layer's weight: ``(C_out, C_in, kH, kW)`` or ``(out, in)``.

    Raises:
        RewriteError: a name is not a layer of the model with a weight that the mask fits.
    """
    nodes = {layer_of(n, model): n for n in model.graph.nodes if n.op == "call_module" and layer_of(n, model)}
    for path, mask in masks.items():
        weight = getattr(nodes[path] and operator.attrgetter(path)(model), "weight", None) if path in nodes else None
        if weight is None or torch.broadcast_shapes(mask.shape, weight.shape) != weight.shape:
            raise RewriteError(
                f"cannot mask {path!r} with a mask of shape {tuple(mask.shape)}",
                f"layers with a weight: {', '.join(nodes)}" if path not in nodes else f"its weight is {tuple(weight.shape)}",
                "name a layer, and give a mask that broadcasts to its weight",
            )
    holder = nn.ModuleDict()
    model.inserted.add_module("masks", holder)
    for path, mask in masks.items():
        node, key = nodes[path], path.replace(".", "/")
        holder[key] = MaskedGradient(path, model.get_submodule(path), mask)
        with model.graph.inserting_after(node):
            model.replace(node, model.graph.call_module(f"{INSERTED}.masks.{key}", node.args))
