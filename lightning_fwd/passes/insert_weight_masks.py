"""Run layers with part of their weights at zero, the gradient for all of them: what sparse training prunes and regrows."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from ..errors import RewriteError
from ..graph.blocks import layer_of
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel
from ..graph.stored_as import StoredAs


class MaskedWeight(nn.Module):
    """Runs a layer it does not own with ``weight * mask``; the weight's gradient is that of the product, so it is dense.

    Args:
        path: the layer's path in the model; layer: the layer itself.
        mask: 1 or 0 per weight.
    """

    def __init__(self, path: str, layer: nn.Module, mask: Tensor):
        super().__init__()
        self.__dict__["layer"] = layer  # not registered: the layer keeps its own place and names
        names = sorted((name for name, _ in layer.named_parameters()), key=lambda name: name != "weight")  # the weight first
        self.uses = tuple(f"{path}.{name}" for name in names)
        self.register_buffer("mask", mask.to(layer.weight))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output; of no input the masked weight itself, for a graph that reads it (``F.linear(x, self.weight)``)."""
        weight = _StraightThrough.apply(self.layer.weight, self.mask)
        return functional_call(self.layer, {"weight": weight}, args, kwargs) if args or kwargs else weight

    def stored_as(self) -> dict[str, StoredAs]:
        """The weight in memory has values where the mask has none: a plain model that took them would compute with them."""
        path = self.uses[0].removesuffix(".weight")
        name = f"{INSERTED}.weight_masks.{path.replace('.', '/')}.weight"
        return {self.uses[0]: StoredAs(name, self.mask, self.mask.new_zeros(1))}


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


def insert_weight_masks(model: RewrittenModel, masks: dict[str, Tensor]) -> None:
    """Put a :class:`MaskedWeight` in the place of each named layer, and of each read of its weight, under ``inserted.weight_masks``.

    Checkpoints, and the model that :func:`unwrap` gives back, hold the weights with zeros where the mask has them, from the first step on.

    Args:
        masks: layer path to mask, of the weight's shape.

    Raises:
        RewriteError: a name is not a layer of the model with a weight of that shape.
    """
    nodes: dict[str | None, list[fx.Node]] = {}
    for node in model.graph.nodes:
        if node.op == "call_module":
            nodes.setdefault(layer_of(node, model), []).append(node)
        elif node.op == "get_attr" and node.target.endswith(".weight"):
            nodes.setdefault(node.target.removesuffix(".weight"), []).append(node)
    nodes.pop(None, None)
    for path, mask in masks.items():
        shape = model.get_submodule(path).weight.shape if path in nodes else None
        if mask.shape != shape:
            raise RewriteError(
                f"cannot mask {path!r} with a mask of shape {tuple(mask.shape)}",
                f"its weight is {tuple(shape)}" if shape else f"layers with a weight: {', '.join(nodes)}",
                "name a layer, and give a mask of its weight's shape",
            )
    holder = nn.ModuleDict()
    model.inserted.weight_masks = holder
    for path, mask in masks.items():
        key = path.replace(".", "/")
        holder[key] = MaskedWeight(path, model.get_submodule(path), mask)
        for node in nodes[path]:  # more than one where the layer is called again
            with model.graph.inserting_after(node):
                model.replace(node, model.graph.call_module(f"{INSERTED}.weight_masks.{key}", node.args, dict(node.kwargs)))
    model.on_undo(partial(_apply_masks, model))
    model.register_state_dict_post_hook(_mask_state)


@torch.no_grad()
def _apply_masks(model: RewrittenModel) -> None:
    if model.has_learned:
        for masked in model.inserted.weight_masks.values():
            masked.layer.weight.mul_(masked.mask)


def _mask_state(model: RewrittenModel, state: dict, prefix: str, _meta: dict) -> None:
    if model.has_learned:
        for masked in model.inserted.weight_masks.values():
            name = prefix + masked.uses[0]
            state[name] = state[name] * masked.mask
