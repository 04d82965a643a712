"""The captured graph layer by layer: what a rule needs that gives every layer an update of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx, nn

from .blocks import is_norm, layer_of, parameters_of, shape_of
from .errors import RewriteError
from .segment import Segment

Residual = Literal["sum", "own"]


@dataclass
class Unit:
    """One layer with parameters (and the norm right behind it), then everything up to the next one.

    Attributes:
        path: the layer's module path. parameter_names: of the layer and its norm.
        layer: ``(root, *layer_inputs) -> (z,)``. layer_inputs: names of the values it reads.
        rest: ``(root, *rest_inputs) -> values that later units read``, z among its inputs; gives: their names.
        z: name of the layer's output. h: name of its activation, of z's shape. positions: output positions of one channel.
        dead: values that nothing reads after this unit, h excepted; h_is_dead: whether h is one of them too.
    """

    path: str
    parameter_names: tuple[str, ...]
    layer: Segment
    layer_inputs: list[str]
    rest: Segment
    rest_inputs: list[str]
    gives: list[str]
    z: str
    h: str
    positions: int
    dead: list[str]
    h_is_dead: bool

    def parameters(self, root: nn.Module) -> dict[str, nn.Parameter]:
        """Its trainable parameters by name."""
        found = {name: root.get_parameter(name) for name in self.parameter_names}
        return {name: p for name, p in found.items() if p.requires_grad}

    def run_rest(self, root: nn.Module, z: Tensor, values: dict[str, Tensor]) -> None:
        """From z to the next layer; ``values`` (by node name) gains what later units read and loses what they do not."""
        values[self.z] = z
        results = self.rest(root, *(values[name] for name in self.rest_inputs))
        values.update(zip(self.gives, results, strict=True))
        for name in self.dead:
            values.pop(name, None)


def find_units(model: nn.Module, graph: fx.Graph, start: fx.Node, residual: Residual = "sum") -> list[Unit]:
    """Divide ``graph`` after ``start`` (the node that stands for the input) into units.

    Args:
        residual: which h a layer inside a residual block has: ``"sum"``, the activation after the addition that its output
            enters, or ``"own"``, its own output up to where branches meet.

    Raises:
        RewriteError: a computation on the input comes before the first layer and has parameters of its own (impossible by construction).
    """
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "get_attr", "output") and n is not start]
    output = next(n for n in graph.nodes if n.op == "output").args[0]
    heads = [n for n in nodes if layer_of(n, model) and not _is_norm_node(n, model)]
    if not heads:
        raise RewriteError("the model has no layer with parameters", "there is nothing to train", "check the model")
    edges = [nodes.index(h) for h in heads] + [len(nodes)]
    before, units = nodes[: edges[0]], []
    for head, a, b in zip(heads, edges, edges[1:], strict=False):
        stretch = nodes[a:b]
        norm = _norm_behind(head, model)
        layer_nodes = [head] if norm is None else [head, norm]
        z = layer_nodes[-1]
        leading = before if head is heads[0] else []
        rest_nodes = [n for n in stretch if n not in layer_nodes]
        layer = Segment(leading + layer_nodes, _outside(leading + layer_nodes), [z])
        later = set(nodes[b:])
        made = leading + layer_nodes + rest_nodes
        gives = [n for n in [z, *rest_nodes] if n is output or any(u in later for u in n.users)]
        h = _activation(z, model, residual, set(rest_nodes))
        if h not in gives:
            gives.append(h)
        inputs = list(dict.fromkeys([z, *_outside(rest_nodes)]))
        available = set(made) | {n for n in nodes if nodes.index(n) < a} | {start}
        dead = [n.name for n in available if n is not output and n is not h and not any(u in later for u in n.users)]
        units.append(
            Unit(
                layer_of(head, model),
                tuple(p for n in layer_nodes for p in parameters_of(n, model)),
                layer,
                [n.name for n in _outside(leading + layer_nodes)],
                Segment(rest_nodes, inputs, gives),
                [n.name for n in inputs],
                [n.name for n in gives],
                z.name,
                h.name,
                _positions(z),
                dead,
                h is not output and not any(u in later for u in h.users),
            )
        )
    return units


def _outside(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    inside = set(nodes)
    return list(dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in inside and i.op != "get_attr"))


def _is_norm_node(node: fx.Node, root: nn.Module) -> bool:
    return node.op == "call_module" and is_norm(root.get_submodule(node.target))


def _norm_behind(node: fx.Node, root: nn.Module) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and _is_norm_node(users[0], root) else None


def _activation(z: fx.Node, root: nn.Module, residual: Residual, known: set[fx.Node]) -> fx.Node:
    """Follow z while one reader keeps its shape: norm, nonlinearity, and with ``"sum"`` the addition of a branch.

    Only to what is ``known`` before the next layer runs: of two branches with layers, the sum belongs to the later one.
    """
    h = z
    while len(h.users) == 1:
        (user,) = h.users
        tensors = [n for n in user.all_input_nodes if n.op != "get_attr"]
        if (
            user not in known
            or shape_of(user) != shape_of(z)
            or (layer_of(user, root) and not _is_norm_node(user, root))
        ):
            break
        if len(tensors) > 1 and residual == "own":
            break
        h = user
    return h


def _positions(z: fx.Node) -> int:
    count = 1
    for size in shape_of(z)[2:]:
        count *= size
    return count
