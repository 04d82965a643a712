"""Lower a traced float step to integer operations: the step that trains, is priced and is shipped without a float.

The rules stay as they are. Their traced step (flat aten, autograd and optimizer written out) is walked once; each operation becomes
``lfwd::int_*`` operations on int8 activations, int16 errors and int32 sums, each value with an exponent. A parameter's gradient is not
lowered but its factors are: the update multiplies them by the rate, adds up and rounds once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from ..errors import StepError
from ..graph.stored_as import StoredAs
from ..trace import StepGraph
from . import backward_rules, direction_rules, forward_rules, goodness_rules, rescale, softmax, updates  # noqa: F401  (they fill RULES and define operators)
from .arithmetic import BIAS_EXPONENT, HALF, VIEW_BITS
from .body import BodyFeatures, BodyLayer, BodySum
from .body_features import features_of, lower_features
from .body_rules import body_name, body_of, lower_body
from .lower_updates import MOMENTUM, lower_update
from .lowering import Lowering, exponents_of, rule_of
from .masters import to_bias, to_frozen, to_master
from .split import declare_split
from .values import Value


@dataclass
class IntegerStep:
    """A step in integers.

    Attributes:
        graph: as a :class:`StepGraph`; inputs ``"input"`` int8, ``"target"`` int64, ``"rate"`` int32 ``(3,)`` (multiplier, exponent,
            momentum in Q15); results ``"logits"`` int32 with ``"logits_exponent"`` int8, and the new state. Weights that learn are int16
            masters, frozen ones int8, biases int32; exponents stand under ``_lfwd.integer.``.
        source: the float step that it was made from.
        activations: name of each activation's exponent, to the node of the float step whose values it scales.
        weights: names of the matrices that the step reads. trained: of all parameters that it changes. masters: of these, and of those
            that another step over the same weights changes: they are int16 here too.
        body: layers of the frozen body, by the name of their constants. ranges: of its values, to the node of the float step.
    """

    graph: StepGraph
    source: StepGraph
    activations: dict[str, str]
    weights: tuple[str, ...]
    trained: tuple[str, ...]
    masters: tuple[str, ...]
    body: dict[str, BodyFeatures | BodyLayer | BodySum] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)


_OF_MEMORY = ("dtype", "layout", "device", "pin_memory", "memory_format")  #: arguments that say nothing of values


def lower_step(
    source: StepGraph, error_bits: int = 16, masters: tuple[str, ...] = (), body: bool = False, split: Mapping[str, Tensor] | None = None
) -> IntegerStep:
    """Lower a training step or an inference.

    Args:
        source: as traced inside :func:`lightning_fwd.graph.whole.whole_operations`, with :func:`cross_entropy` as the loss;
            with momentum, if the integer step shall have it (its value is an input).
        masters: parameters that other steps over the same weights change, which are int16 here too.
        split: weights of which some inputs learn, to their indices: masters of these alone (:mod:`.split`).
        body: lower what is frozen in front of what learns as :mod:`.body` does.
        error_bits: of the widest errors, 8 to 16; layers with many outputs take fewer, so that no sum overflows.

    Raises:
        StepError: something in the step has no integer form; named with its layer and the reason.
    """
    masters = tuple(dict.fromkeys((*source.trained, *masters)))
    low = Lowering(source, error_bits, masters)
    wanted, ready = needed(source), _updates_by_moment(source)
    low.wanted, low.body = wanted, body_of(source, masters, wanted) if body else set()
    low.split = split or {}
    features = features_of(source, masters, wanted, low.body) if low.body else None
    low.features = features.nodes if features else ()
    momentum = any(name.startswith(MOMENTUM) for name in source.state)
    for node in source.graph.nodes:
        low.at = node
        if node in wanted and node.op == "placeholder" and low.names[node.name] in low.split:
            low.values[node] = declare_split(low, low.names[node.name], len(low.split[low.names[node.name]]))
        elif node in wanted and node.op == "placeholder":
            low.declare(node)
        elif features and node in features.nodes:
            if node is features.result:
                lower_features(low, features, body_name(low, node))
        elif node in low.body:
            lower_body(low, node)
        elif node in wanted and node.op == "call_function":
            rule = rule_of(node)
            if rule is None:
                raise low.refuse(node, f"{node.target} has no integer form")
            if said := {k: v for k, v in node.kwargs.items() if k not in _OF_MEMORY}:
                raise low.refuse(node, f"{node.target} with {', '.join(f'{k}={v}' for k, v in said.items())} has no integer form")
            twin = (node.target, node.args[0]) if node.target is torch.ops.aten.relu.default else node  # a tangent computes ReLUs again
            low.values[node] = low.once(("value", twin), lambda rule=rule, node=node: rule(low, node))
        for name, gradient in ready.get(node, []):
            lower_update(low, name, gradient, momentum)
    logits = low.values[source.results["logits"]]
    if not isinstance(logits, Value) or logits.kind != "sum" or logits.factor != 1.0:
        raise StepError(
            "the logits are no sums of a layer", "the softmax of an integer step reads those", "end the model in a linear layer"
        )
    graph = low.finish(logits.node, low.exponent_node(logits.exponent))
    return IntegerStep(graph, source, low.activations, tuple(low.weights), source.trained, masters, low.body_layers, low.ranges)


def to_integers(step: IntegerStep, floats: Mapping[str, Tensor], scales: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """The state that a lowered graph reads, of a model's parameters and buffers, exponents among them; velocities are zero.

    Args:
        scales: of values of the body, by name.
    """
    state, constants = {}, dict[str, Tensor]()
    for name, layer in step.body.items():
        constants |= {f"{name}/{what}": value for what, value in layer.constants(floats, scales or {}).items()}
    for name in step.graph.state:
        like = step.graph.node(name).meta["val"]
        if name in constants:
            state[name] = constants[name]
        elif name.startswith(MOMENTUM):
            state[name] = torch.zeros(like.shape, dtype=like.dtype)
        elif not floats[name].is_floating_point():
            state[name] = floats[name]
        elif floats[name].ndim == 1:
            state[name] = to_bias(floats[name])
        else:
            state[name] = (to_master if name in step.masters else to_frozen)(floats[name], floats[exponents_of(name)])
    return state


def masters_stored_as(
    trained: Mapping[str, Tensor], exponents: Mapping[str, Tensor], mutated: Collection[str], split: Mapping[str, Tensor] | None = None
) -> dict[str, StoredAs]:
    """What parameters that learn are on the device: a master and its row's exponents, or a bias.

    Args:
        mutated: names of state that the device gives out beside them, exponents that change among it.
    """
    said = {}
    for name, parameter in trained.items():
        own, kept = f"{exponents_of(name)}.integer", exponents_of(name)
        if parameter.ndim == 1:
            said[name] = StoredAs(own, torch.tensor(2.0**-BIAS_EXPONENT), torch.zeros(()))
            continue
        factor, learned = torch.tensor(2.0**-VIEW_BITS), kept in mutated
        if not learned:
            factor = factor * torch.exp2(-exponents[kept].float()).reshape(-1, *[1] * (parameter.ndim - 1))
        said[name] = StoredAs(own, factor, torch.tensor(float(HALF)), kept if learned else "", (split or {}).get(name))
    return said


def needed(source: StepGraph) -> set[fx.Node]:
    """Nodes of the prediction and of the gradients: neither the loss's value nor the optimizer's arithmetic."""
    by_name = {n.name: n for n in source.graph.nodes}
    stack = [source.results["logits"], *(by_name[name] for name in source.gradients.values()), *map(source.node, source.trained)]
    stack += [n for name in source.trained for n in _index(source.results[name])]
    found: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += [] if "full_like" in str(node.target) else node.all_input_nodes  # takes a shape alone
    return found


def _updates_by_moment(source: StepGraph) -> dict[fx.Node, list[tuple[str, fx.Node]]]:
    """Node to the parameters that are updated after it, with their gradients.

    As soon as the gradient is known and nothing reads the old value any more, so that errors and activations die early.
    """
    wanted = needed(source)
    order = {node: i for i, node in enumerate(source.graph.nodes)}
    by_name = {n.name: n for n in source.graph.nodes}
    moments: dict[fx.Node, list[tuple[str, fx.Node]]] = {}
    for name in source.trained:
        gradient, stack, readers = by_name[source.gradients[name]], [source.node(name)], []
        while stack:  # a transposed weight is read where the product is
            users = [u for u in stack.pop().users if u in wanted]
            readers += users
            stack += [u for u in users if u.target is torch.ops.aten.permute.default]
        moments.setdefault(max([gradient, *readers], key=order.__getitem__), []).append((name, gradient))
    return moments


def _index(result: fx.Node) -> list[fx.Node]:
    """The channels that learn, which the new value of a partly trained weight is written to."""
    args = result.args[1] if "index_put" in str(result.target) else []
    return [n for n in args if isinstance(n, fx.Node)]
