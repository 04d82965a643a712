"""Run some parameters of a graph displaced along a random direction that a seed gives: nothing is stored, nothing is changed in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..graph.blocks import parameters_of
from ..graph.constants import INSERTED
from ..graph.counter_random import random_bits
from ..graph.errors import RewriteError
from ..graph.rewritten import RewrittenModel


def direction(seed: Tensor, place: int, like: Tensor) -> Tensor:
    """Independent +1 and -1 in the shape of ``like``, a function of the seed (0-d int64) and the parameter's place (below 1024)."""
    return 1.0 - 2.0 * (random_bits(seed + place, like.shape, like.device) & 1).to(like.dtype)


class PerturbedLayer(nn.Module):
    """Runs a layer it does not own with some of its parameters at ``p + scale * direction``; one layer's copy lives at a time."""

    def __init__(self, path: str, layer: nn.Module, places: dict[str, int], scale: float):
        super().__init__()
        self.__dict__["layer"] = layer  # not registered: the layer keeps its own place and names
        self.places, self.scale = places, scale
        self.uses = tuple(f"{path}.{name}" for name, _ in layer.named_parameters())

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        moved = {}
        for name, place in self.places.items():
            parameter = self.layer.get_parameter(name)
            moved[name] = torch.add(parameter, direction(seed, place, parameter), alpha=self.scale)
        return functional_call(self.layer, moved, (x,))


def insert_weight_perturbations(model: RewrittenModel, places: dict[str, int], scale: float) -> None:
    """Put a :class:`PerturbedLayer` in the place of each layer that has one of the named parameters.

    ``seed`` (0-d int64) becomes a second input of the training graph. Inference runs the graph as captured.

    Args:
        places: parameter name to its place, for :func:`direction`; a tied weight's names share one.

    Raises:
        RewriteError: a parameter is not that of a module with one input.
    """
    graph = model.graph
    nodes = [n for n in graph.nodes if n.op == "call_module" and set(parameters_of(n, model)) & set(places)]
    found = {name for n in nodes if len(n.args) == 1 for name in parameters_of(n, model)}
    if not set(places) <= found:
        raise RewriteError(
            f"cannot perturb {', '.join(sorted(set(places) - found))}",
            "it is not a parameter of a module with one input",
            "leave it out of `train`, or make its layer a module",
        )
    holder = nn.ModuleDict()
    model.inserted.add_module("perturbed", holder)
    with graph.inserting_after(next(n for n in graph.nodes if n.op == "placeholder")):
        seed = graph.placeholder("seed")
    for node in nodes:
        path, key = node.target, node.target.replace(".", "/")
        if key not in holder:
            own = {n.removeprefix(path + "."): places[n] for n in parameters_of(node, model) if n in places}
            holder[key] = PerturbedLayer(path, model.get_submodule(path), own, scale)
        with graph.inserting_after(node):
            model.replace(node, graph.call_module(f"{INSERTED}.perturbed.{key}", (*node.args, seed)))
