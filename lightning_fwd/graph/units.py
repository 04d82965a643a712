"""The captured graph layer by layer: what a rule needs that gives every layer an update of its own."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import RewriteError
from .blocks import is_norm, layer_of, parameters_of, shape_of
from .constants import INSERTED, is_constant
from .module_table import trained_at
from .operand import known_shape, module_of, target_path
from .segment import Segment

Residual = Literal["sum", "own"]
_ACTIVATIONS = frozenset(  # functions and methods, by name, whose result is the activation of the layer that they read
    "relu relu6 leaky_relu prelu rrelu gelu elu selu celu silu mish hardswish hardsigmoid hardtanh tanh sigmoid softplus softsign "
    "log_sigmoid "
    "softshrink hardshrink tanhshrink threshold _threshold clamp clamp_min clamp_max clip softmax log_softmax "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
    "batch_norm instance_norm layer_norm group_norm rms_norm local_response_norm normalize contiguous clone float to".split()
)
_ACTIVATION_MODULES = ("activation", "dropout", "normalization", "instancenorm", "batchnorm")
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass
class Unit:
    """One layer with parameters (and the norm right behind it; a norm elsewhere is a layer itself), then everything up to the next one.

    Attributes:
        path: the layer's module path. parameter_names: of the layer and its norm.
        layer: ``(root, *layer_inputs) -> (z,)``. layer_inputs: names of the values it reads.
        rest: ``(root, *rest_inputs) -> values that later units read``, z among its inputs; gives: their names.
        z: name of the layer's output. h: name of its activation, of z's shape. positions: output positions of one channel. values: of z,
            a sample's.
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
    values: int
    dead: list[str]
    h_is_dead: bool

    def parameters(self, root: nn.Module) -> dict[str, nn.Parameter]:
        """Its trainable parameters by name."""
        return trained_at(root, self._paths)

    @cached_property
    def _paths(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(name, tuple(name.split("."))) for name in self.parameter_names]

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
        RewriteError: no layer has parameters, or one hands out several tensors that are read.
    """
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output") and not is_constant(n) and n is not start]
    output = next(n for n in graph.nodes if n.op == "output").args[0]
    chains = _layers(nodes, model)
    if not chains:
        raise RewriteError("the model has no layer with parameters", "there is nothing to train", "check the model")
    order = {n: i for i, n in enumerate(nodes)}
    in_layers = {n for chain in chains for n in chain}
    edges = [order[chain[0]] for chain in chains] + [len(nodes)]
    before, units = nodes[: edges[0]], []
    for i, (layer_nodes, a, b) in enumerate(zip(chains, edges, edges[1:], strict=False)):
        z, later = layer_nodes[-1], {n for chain in chains[i + 1 :] for n in chain} | {n for n in nodes[b:] if n not in in_layers}
        rest_nodes = [n for n in nodes[a:b] if n not in in_layers]
        leading = before if i == 0 else []
        if any(u in later or u in rest_nodes for n in leading for u in n.users):
            rest_nodes = leading + rest_nodes  # without parameters: cheaper to run again than to hand through
        layer = Segment(leading + layer_nodes, _outside(leading + layer_nodes), [z])
        gives = [n for n in [z, *rest_nodes] if n is output or any(u in later for u in n.users)]
        h = _activation(z, residual, set(rest_nodes), model)
        if h not in gives:
            gives.append(h)
        inputs = list(dict.fromkeys([z, *_outside(rest_nodes)]))
        available = {start, *nodes[:b], *layer_nodes}
        dead = [n.name for n in available if n is not output and n is not h and not any(u in later for u in n.users)]
        units.append(
            Unit(
                layer_of(layer_nodes[0], model) or "",
                tuple(p for n in layer_nodes for p in parameters_of(n, model)),
                layer,
                [n.name for n in _outside(leading + layer_nodes)],
                Segment(rest_nodes, inputs, gives),
                [n.name for n in inputs],
                [n.name for n in gives],
                z.name,
                h.name,
                _positions(z, layer_nodes[0], model),
                math.prod(known_shape(shape_of(z))[1:]),
                dead,
                h is not output and not any(u in later for u in h.users),
            )
        )
    return units


def one_pass(graph: fx.Graph, start: fx.Node, units: list[Unit]) -> Segment:
    """``(root, input) -> (output, h of every unit but the last, z of every unit but the last)``: what the units give one by one.

    Behind each of these z the graph is cut, so that where autograd records, each z has a graph back to its own layer's parameters only.
    """
    copies: dict[fx.Node, fx.Node] = {}
    copy = fx.Graph()
    output = cast(fx.Node, copy.graph_copy(graph, copies))
    by_name = {node.name: copies[node] for node in graph.nodes if node in copies}
    hs, zs = [by_name[unit.h] for unit in units[:-1]], [by_name[unit.z] for unit in units[:-1]]
    cuts = {}
    for z in zs:
        with copy.inserting_after(z):
            cuts[z] = copy.call_function(torch.detach, (z,))
        z.replace_all_uses_with(cuts[z], delete_user_cb=partial(operator.is_not, cuts[z]))
    begin = copies[start]
    nodes = [n for n in copy.nodes if n.op != "placeholder" and n is not begin]
    return Segment(nodes, [begin], [cuts.get(n, n) for n in (output, *hs)] + zs)


def _layers(nodes: list[fx.Node], root: nn.Module) -> list[list[fx.Node]]:
    """Every layer with parameters as the nodes it runs: the layer, the one of its outputs that is read, the norm right behind it."""
    chains: list[list[fx.Node]] = []
    taken: set[fx.Node] = set()
    for node in nodes:
        path = layer_of(node, root)
        if path is None or node in taken:
            continue
        chain = [node]
        if shape_of(node) is None:  # several outputs (attention, recurrent layers)
            if len(node.users) != 1 or next(iter(node.users)).target is not operator.getitem:
                raise RewriteError(
                    f"{path} hands out several tensors that are read",
                    "the rule compares one activation per layer",
                    "wrap it in a module that returns one tensor",
                )
            chain += node.users
        while len(chain[-1].users) == 1 and _is_norm_node(behind := next(iter(chain[-1].users)), root):
            chain.append(behind)
        taken.update(chain)
        chains.append(chain)
    return chains


def _outside(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    inside = set(nodes)
    return list(dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in inside and not is_constant(i)))


def _is_norm_node(node: fx.Node, root: nn.Module) -> bool:
    return node.op == "call_module" and is_norm(module_of(node, root))


def _activation(z: fx.Node, residual: Residual, known: set[fx.Node], root: nn.Module) -> fx.Node:
    """Follow z while one reader makes its activation: a nonlinearity, dropout, a norm, and with ``"sum"`` the addition of a branch.

    Whatever else keeps the shape (a transposition, a difference, a product) is another quantity. Only to what is ``known`` before the next
    layer
    runs: of two branches with layers, the sum belongs to the later one.
    """
    h = z
    while len(h.users) == 1:
        (user,) = h.users
        branches = len([n for n in user.all_input_nodes if not is_constant(n)]) > 1
        follows = _is_sum(user) and residual == "sum" if branches else _is_activation(user, root)
        if user not in known or shape_of(user) != shape_of(z) or not follows:
            break
        h = user
    return h


def _is_sum(node: fx.Node) -> bool:
    return node.target in (operator.add, torch.add, "add") and not node.kwargs


def _is_activation(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        module = module_of(node, root)
        package, _, name = type(module).__module__.rpartition(".")
        known = (package == "torch.nn.modules" and name in _ACTIVATION_MODULES) or isinstance(module, nn.Identity)
        return known or is_norm(module) or target_path(node).startswith(INSERTED)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _ACTIVATIONS or _is_sum(node)


def _positions(z: fx.Node, layer: fx.Node, root: nn.Module) -> int:
    """Output positions that share a weight of ``layer``: H x W of a convolution, tokens of a linear layer, what a norm's vector spreads
    over."""
    shape, weight = known_shape(shape_of(z)), max(parameters_of(layer, root).values(), key=lambda p: p.ndim)
    module = module_of(layer, root) if layer.op == "call_module" else None
    if weight.ndim == 1 or (module is not None and is_norm(module)):
        return max(1, math.prod(shape[1:]) // weight.numel())
    if weight.ndim == len(shape) > 2 and (module is not None or layer.target in _CONVOLUTIONS):
        return math.prod(shape[2:])
    return math.prod(shape[1:-1])
