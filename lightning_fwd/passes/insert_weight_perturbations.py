"""Run some parameters of a graph displaced along a random direction that a seed gives: nothing is stored, nothing is changed in place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.func import functional_call

from ..errors import RewriteError
from ..graph.constants import INSERTED, is_constant
from ..graph.rewritten import RewrittenModel
from ..graph.weight_directions import moved


class PerturbedLayer(nn.Module):
    """Runs a layer it does not own with some of its parameters at ``p + scale * direction``; one layer's copy lives at a time."""

    def __init__(self, path: str, layer: nn.Module, places: dict[str, int], scale: float):
        super().__init__()
        self.__dict__["layer"] = layer  # not registered: the layer keeps its own place and names
        self.places, self.scale = places, scale
        self.uses = tuple(f"{path}.{name}" for name, _ in layer.named_parameters())

    def forward(self, seed: Tensor, *args: Any, **kwargs: Any) -> Any:
        displaced = {n: moved(self.layer.get_parameter(n), seed, place, self.scale) for n, place in self.places.items()}
        return functional_call(self.layer, displaced, args, kwargs)


class PerturbedParameter(nn.Module):
    """A parameter that the graph reads itself (``F.linear(x, self.weight)``), at ``p + scale * direction``."""

    def __init__(self, name: str, place: int, scale: float):
        super().__init__()
        self.place, self.scale, self.uses = place, scale, (name,)

    def forward(self, seed: Tensor, parameter: Tensor) -> Tensor:
        return moved(parameter, seed, self.place, self.scale)


def insert_weight_perturbations(model: RewrittenModel, places: dict[str, int], scale: float) -> None:
    """Run each layer that has one of the named parameters as a :class:`PerturbedLayer`, and read bare ones through a
    :class:`PerturbedParameter`.

    ``seed`` (0-d int64) becomes a second input of the training graph. Inference runs the graph as captured.

    Args:
        places: parameter name to its place, for :func:`.weight_directions.direction`; a tied weight's names share one.

    Raises:
        RewriteError: nothing in the graph reads a parameter.
    """
    graph = model.graph
    nodes = [n for n in graph.nodes if n.op in ("call_module", "get_attr") and set(_own(n, model)) & set(places)]
    found = {name for n in nodes for name in _own(n, model)}
    if not set(places) <= found:
        raise RewriteError(
            f"cannot perturb {', '.join(sorted(set(places) - found))}", "the captured graph does not read it", "leave it out of `train`"
        )
    holder = nn.ModuleDict()
    model.inserted.add_module("perturbed", holder)
    with graph.inserting_after(next(n for n in graph.nodes if n.op == "placeholder")):
        seed = graph.placeholder("seed")
    for node in nodes:
        path, key = node.target, node.target.replace(".", "/")
        read = node.op == "get_attr"
        if key not in holder:
            own = {n.removeprefix(path + "."): places[n] for n in _own(node, model) if n in places}
            holder[key] = (
                PerturbedParameter(path, places[path], scale) if read else PerturbedLayer(path, model.get_submodule(path), own, scale)
            )
        with graph.inserting_after(node):
            args = (seed, node) if read else (seed, *node.args)
            model.replace(node, graph.call_module(f"{INSERTED}.perturbed.{key}", args, {} if read else dict(node.kwargs)))
    for node in graph.nodes:  # what is made of a moved parameter moves with it
        if node.op not in ("placeholder", "get_attr"):
            node.meta["constant"] = node.meta.get("constant", False) and all(map(is_constant, node.all_input_nodes))


def _own(node: fx.Node, model: RewrittenModel) -> list[str]:
    """Names of the parameters that the node itself runs or reads."""
    if node.op == "get_attr":
        return [node.target]
    return [f"{node.target}.{name}" for name, _ in model.get_submodule(node.target).named_parameters()]
