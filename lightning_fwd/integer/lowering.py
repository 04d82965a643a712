"""The integer graph while it is written, and the scales of what stands in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import StepError
from ..graph.constants import COUNTER, INSERTED
from ..trace import StepGraph
from .arithmetic import as_multiplier
from .values import Exponent, Value

lfwd = torch.ops.lfwd
RATE, PREFIX = "rate", f"{INSERTED}.integer."  #: the input of rate and momentum; where exponents live
Rule = Callable[["Lowering", fx.Node], object]
RULES: dict[object, Rule] = {}


def exponents_of(name: str) -> str:
    """The buffer that holds a weight's exponents."""
    return PREFIX + name.replace(".", "/")


def rule(*targets: object) -> Callable[[Rule], Rule]:
    """Register how operations of the float step are lowered: gives a Value, or whatever the rules of its users expect."""

    def register(function: Rule) -> Rule:
        RULES.update({_name(t): function for t in targets})
        return function

    return register


def rule_of(node: fx.Node) -> Rule | None:
    """How a node is lowered, None where nothing knows."""
    return RULES.get(_name(node.target))


def _name(target: object) -> object:
    """An operator by its name: given another overload later (an out variant, for the exporter), its packet is another object."""
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "_qualified_op_name", packet)


class Lowering:
    """One float step on its way to integers.

    Attributes:
        values: node of the float step to what it has become.
        results: name of a result or of state, to the integer node that gives it.
        activations: name of an activation's exponent, to the node of the float step that it scales.
        weights: parameters read, in order.
        wanted: nodes of the float step that are lowered. body, features: of these, those of a frozen body. bodies, body_layers, ranges:
            what each has become, its layers by name, and by name the node whose range gives a scale (:mod:`.body_rules`).
        split: weights in two parts, to the inputs that learn (:mod:`.split`).
        parameters: displaced parameters, to the placeholder of each (:mod:`.direction_rules`).
    """

    def __init__(self, source: StepGraph, error_bits: int, masters: tuple[str, ...]):
        self.source, self.error_bits, self.masters = source, error_bits, masters
        self.graph, self.values, self.results = fx.Graph(), {}, {}
        self.names = {node: name for name, node in (source.inputs | source.state).items()}
        self.inputs: dict[str, fx.Node] = {}
        self.state: dict[str, fx.Node] = {}
        self.activations: dict[str, str] = {}
        self.weights: list[str] = []
        self.wanted: Collection[fx.Node] = ()
        self.body: Collection[fx.Node] = ()
        self.features: Collection[fx.Node] = ()
        self.bodies: dict[fx.Node, Any] = {}
        self.body_layers: dict[str, Any] = {}
        self.ranges: dict[str, str] = {}
        self.split: Mapping[str, Tensor] = {}
        self.parameters: dict[fx.Node, fx.Node] = {}
        self._pass: fx.Node | None = None  #: the seed of the displacement at hand
        self._seen: dict[tuple[str, fx.Node | None], int] = {}  #: activations of a layer so far, less one, in this pass
        self._last_placeholder: fx.Node | None = None
        self._cached: dict[tuple, object] = {}
        self._needed: dict[str, fx.Node] = {}
        self.at: fx.Node | None = None  #: the float node being lowered: what is emitted takes its phase and layer

    # ---- writing

    def placeholder(self, name: str, like: Tensor, layer: str = "") -> fx.Node:
        text = "".join(c if c.isalnum() else "_" for c in name).strip("_")
        text = f"_{text}" if text[0].isdigit() else text
        if self._last_placeholder is None:
            node = self.graph.placeholder(text)
        else:
            with self.graph.inserting_after(self._last_placeholder):
                node = self.graph.placeholder(text)
        self._last_placeholder = node
        node.meta = {"val": like.to("meta"), "phase": "forward", "layer": layer}
        return node

    def input(self, name: str, like: Tensor) -> fx.Node:
        if name not in self.inputs:
            self.inputs[name] = self.placeholder(name, like)
        return self.inputs[name]

    def state_of(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, layer: str = "") -> fx.Node:
        if name not in self.state:
            self.state[name] = self.placeholder(name, torch.empty(shape, dtype=dtype, device="meta"), layer)
        return self.state[name]

    def emit(self, target: object, *args: object, phase: str | None = None) -> fx.Node:
        """One operation, labelled as the float node that is being lowered."""
        node = self.graph.call_function(target.default if hasattr(target, "default") else target, args)
        values = fx.map_arg(args, lambda n: n.meta["val"])
        node.meta = {"val": node.target(*values), "phase": phase or self.at.meta["phase"], "layer": self.at.meta["layer"]}
        return node

    def once(self, key: tuple, make: Callable[[], object]) -> object:
        if key not in self._cached:
            self._cached[key] = make()
        return self._cached[key]

    def refuse(
        self, node: fx.Node, why: str, mend: str = "train it in float, or leave the layer frozen in front of those that learn"
    ) -> StepError:
        layer, phase = node.meta.get("layer") or "the network", node.meta.get("phase", "")
        return StepError(f"{layer} ({phase}: {node.name}) cannot be lowered to integers", why, mend)

    # ---- exponents

    def exponent_node(self, exponent: Exponent) -> fx.Node:
        if isinstance(exponent, fx.Node):
            return exponent
        zero = self.state_of(f"{PREFIX}input", (1,), torch.int8)
        return self.emit(lfwd.int_exponent, zero, zero, -1, exponent)

    def plus(self, exponent: Exponent, other: fx.Node | None, sign: int = 1, constant: int = 0) -> Exponent:
        """``exponent + sign * min(other) + constant``."""
        if other is None:
            if isinstance(exponent, int):
                return exponent + constant
            return exponent if not constant else self.emit(lfwd.int_exponent, exponent, None, 1, constant)
        if isinstance(exponent, int) and sign == 1:
            return self.emit(lfwd.int_exponent, other, None, 1, exponent + constant)
        return self.emit(lfwd.int_exponent, self.exponent_node(exponent), other, sign, constant)

    def weight_exponents(self, name: str) -> fx.Node:
        """Exponents of a weight's rows, int8 ``(out,)``."""
        return self.rows_of(name, self.source.node(name).meta["val"].shape[0])

    def rows_of(self, name: str, rows: int) -> fx.Node:
        return self.state_of(exponents_of(name), (rows,), torch.int8, name.rpartition(".")[0])

    # ---- placeholders of the float step

    def declare(self, node: fx.Node) -> None:
        name, val = self.names[node.name], node.meta["val"]
        if name == "input":
            if not val.is_floating_point():
                raise self.refuse(node, f"its input is {val.dtype}", "rewrite the part of the model behind the embedding")
            exponent = self.state_of(f"{PREFIX}input", (1,), torch.int8)
            self.activations[f"{PREFIX}input"] = node.name
            like = torch.empty(val.shape, dtype=torch.int8, device="meta")
            self.values[node] = Value(self.input(name, like), exponent, "activation")
        elif name == "target":
            self.values[node] = self.input(name, val)
        elif not val.is_floating_point():  # which channels learn
            self.values[node] = self.state_of(name, tuple(val.shape), val.dtype)
        elif val.ndim == 1:
            self.values[node] = self.state_of(name, tuple(val.shape), torch.int32, node.meta["layer"])
        else:
            dtype = torch.int16 if name in self.masters else torch.int8
            self.values[node] = self.state_of(name, tuple(val.shape), dtype, node.meta["layer"])
            self.weights.append(name)

    def learns(self, node: fx.Node) -> bool:
        return self.names.get(node.name) in self.source.trained

    def displaced(self, node: fx.Node, seed: fx.Node, parameter: fx.Node) -> None:
        """Note a displaced parameter. What follows is the same inference once more: its activations have the scales of the first."""
        self.parameters[node], self._pass = parameter, seed

    def weight(self, node: fx.Node) -> tuple[str, fx.Node] | None:
        """Name and integer node of a weight, displaced or as it is; None of anything else."""
        parameter = self.parameters.get(node, node)
        if parameter.op != "placeholder" or self.names[parameter.name] not in self.source.state:
            return None
        return self.names[parameter.name], self.values[node]

    # ---- widths

    def activation(self, float_node: fx.Node, relu: bool = False) -> Value:
        """The value of a float node as int8, requantised where it is a sum."""
        value = self.values[float_node]
        if not isinstance(value, Value) or value.kind == "error":
            raise self.refuse(float_node, "an activation is expected where an error, a weight or a constant stands")
        if value.kind == "activation" and value.factor == 1.0:
            return value
        if value.kind == "activation":
            return self.once(("scaled", float_node), lambda: self._scaled(float_node, value))
        return self.once(("activation", float_node, relu), lambda: self.requantised(float_node, value, relu))

    def _scaled(self, float_node: fx.Node, value: Value) -> Value:
        """An activation times a constant, as an activation of its own scale: what reads one knows of no factor."""
        exponent = self.exponent_node(value.exponent)
        doubled = Value(self.emit(lfwd.int_add, value.node, exponent, value.node, exponent), exponent, "sum", value.factor / 2)
        return self.requantised(float_node, replace(doubled, learned=value.learned), relu=False)

    def requantised(self, float_node: fx.Node, value: Value, relu: bool) -> Value:
        """A sum as int8 at the exponent of this activation, which is state: it only coarsens, from the next step on."""
        name = self.activation_name(float_node)
        first = self.activations.setdefault(name, float_node.name) == float_node.name
        out = self.state_of(name, (1,), torch.int8, float_node.meta["layer"])
        mult, below = as_multiplier(value.factor)
        exponent = self.exponent_node(self.plus(value.exponent, None, 1, below))
        node = self.emit(lfwd.int_requantise, value.node, exponent, out, mult, relu)
        if first and value.learned and self.source.trained:
            self._needed[name] = self.emit(lfwd.int_needed_exponent, value.node, exponent, mult, relu)
        return Value(node, out, "activation", learned=value.learned)

    def activation_name(self, float_node: fx.Node) -> str:
        """By the layer, so that a prediction finds the exponents that training left; numbered where a layer has several."""
        layer = float_node.meta["layer"].replace(".", "/") or "network"
        k = self._seen[layer, self._pass] = self._seen.get((layer, self._pass), -1) + 1
        return f"{PREFIX}activation/{layer}" + (f"/{k}" if k else "")

    def error(self, float_node: fx.Node) -> Value:
        """The error at a float node as int16, with a scale of this step where it is a sum."""
        value = self.values[float_node]
        if not isinstance(value, Value) or value.kind == "activation":
            raise self.refuse(float_node, "an error is expected where an activation, a weight or a constant stands")
        bits = self._bits_of(float_node)
        if value.kind == "error":
            return value
        return self.once(("error", float_node), lambda: self._narrowed(value, bits))

    def _narrowed(self, value: Value, bits: int) -> Value:
        shift = self.emit(lfwd.int_narrow_shift, value.node, value.mask, bits)
        node = self.emit(lfwd.int_narrow, value.node, value.mask, shift, bits)
        return Value(node, self.plus(value.exponent, shift, -1), "error", value.factor)

    def _bits_of(self, float_node: fx.Node) -> int:
        """So many that no layer that hands this error on can overflow: ``bits - 1 + 7 + log2(products) <= 30``."""
        products = [1]
        for user in float_node.users:
            if user.target is torch.ops.aten.mm.default and user.args[0] is float_node:
                products.append(user.args[1].meta["val"].shape[0])
            if user.target is torch.ops.aten.convolution_backward.default and user.args[-1][0]:
                products.append(_products(user.args[2], user.args[9]))
            if user.target is torch.ops.aten.convolution.default:  # transposed: an error handed back; else a change handed on
                forth = math.prod(user.args[1].meta["val"].shape[1:])
                products.append(_products(user.args[1], user.args[8]) if user.args[6] else forth)
            if _name(user.target) in _AS_IT_IS:
                products.append(1 << max(0, 24 - self._bits_of(user)))
        bits = min(self.error_bits, 24 - max(products).bit_length() + (max(products).bit_count() == 1))
        if bits < 4:
            raise self.refuse(float_node, f"{max(products)} products per error leave {bits} bits for each")
        return bits

    # ---- the end

    def finish(self, logits: fx.Node, exponent: fx.Node) -> StepGraph:
        results = {"logits": logits, "logits_exponent": exponent} | self.results
        for name, needed in self._needed.items():
            results[name] = self.emit(lfwd.int_coarsen, self.state[name], needed, phase="update")
        if self.source.trained:
            counter = self.counter()
            results[COUNTER] = self.emit(lfwd.int_next, counter, phase="update")
        self.graph.output(tuple(results.values())).meta = {"phase": "update", "layer": ""}
        self.graph.eliminate_dead_code()
        self.weights = [name for name in self.weights if self.state[name].users]
        for name, node in list(self.state.items()):
            if not node.users:
                self.graph.erase_node(node)
                del self.state[name]
        module = fx.GraphModule(nn.Module(), self.graph)
        inputs = {name: node.name for name, node in self.inputs.items()}
        return StepGraph(module, inputs, {name: node.name for name, node in self.state.items()}, list(results), {}, ())

    def counter(self) -> fx.Node:
        return self.state_of(COUNTER, (), torch.int64)


_AS_IT_IS = {  # of an error: what hands it on at its width, whichever overload
    *(f"aten::{name}" for name in ("view", "expand", "constant_pad_nd", "clone", "mul", "div", "where")),
    "lfwd::where_bits",
}


def _products(weight: fx.Node, groups: int) -> int:
    """How many products a value of the error behind a convolution sums up, at most."""
    shape = weight.meta["val"].shape
    return shape[0] // groups * math.prod(shape[2:])
