"""Capture any classifier as one torch.fx graph: tensor in, logits out.

The ladder, each rung tried when the one above fails: symbolic trace; trace again with the innermost failing module kept
whole (a leaf, reported as opaque); an ordered chain of the root's children; a clear error. Whatever rung succeeds, the
captured graph is run once beside the original, so that a trace which silently baked in a value is an error, not a wrong result.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from .errors import CaptureError

INSERTED = "_lfwd"  #: prefix under which everything the rewrite adds to a model lives


@dataclass(frozen=True)
class Capture:
    """A model as a graph.

    Attributes:
        graph_module: nodes carry ``meta["tensor_meta"]`` (shape, dtype) for the example input.
        opaque: paths of the modules kept whole because their inside cannot be traced, with the reason.
        how: ``"traced"`` or ``"chain"`` (of children).
        dropouts: modules that stand in for functional dropout, by the name they get under the inserted prefix.
    """

    graph_module: fx.GraphModule
    opaque: dict[str, str]
    how: str
    dropouts: dict[str, nn.Module]


class _LeafTracer(fx.Tracer):
    """A tracer that remembers the innermost module in which tracing failed."""

    def __init__(self, leaves: set[str]):
        super().__init__()
        self._kept_whole, self.failed_in = leaves, None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._kept_whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict):
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise


def capture(net: nn.Module, example_input: Tensor) -> Capture:
    """Capture ``net`` as a graph from one tensor to one tensor.

    Args:
        net: any module whose forward takes one tensor ``(B, ...)`` and returns logits ``(B, C)``.
        example_input: a tensor of the shape, dtype and device that ``net`` takes.

    Raises:
        CaptureError: the model takes several inputs, returns something else than one tensor, or cannot be traced.
    """
    _check_signature(net)
    was_training = net.training
    net.eval()
    try:
        with torch.no_grad():
            expected = net(example_input)
        if not isinstance(expected, Tensor):
            raise CaptureError(
                f"{type(net).__name__}.forward returns {type(expected).__name__}, not one tensor",
                "a learning rule needs the logits (B, C) as the model's only output",
                "wrap the model in a module whose forward returns the logits alone",
            )
        failures: list[str] = []
        for attempt in (_trace, _chain):
            try:
                graph_module, opaque, how = attempt(net, example_input)
                _remove_inplace(graph_module)
                dropouts = _modules_for_functional_dropout(net, graph_module, opaque)
                _check_against_original(graph_module, dropouts, example_input, expected)
                return Capture(graph_module, opaque, how, dropouts)
            except CaptureError as error:
                failures.append(str(error))
        raise CaptureError(
            f"{type(net).__name__} cannot be captured as a graph",
            "; then ".join(failures),
            "move control flow that depends on tensor values into a submodule (it is then kept whole), "
            "or build the model as a sequence of children",
        )
    finally:
        net.train(was_training)


def _check_signature(net: nn.Module) -> None:
    required = [
        p.name
        for p in inspect.signature(net.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) > 1:
        raise CaptureError(
            f"{type(net).__name__}.forward takes {len(required)} inputs ({', '.join(required)}), expected one",
            "the learning rules modulate, overlay or re-run the one input tensor of a classifier",
            "wrap the model so that forward(x) takes one tensor, with the other inputs bound or concatenated",
        )


def _trace(net: nn.Module, example_input: Tensor) -> tuple[fx.GraphModule, dict[str, str], str]:
    """Symbolic trace; on failure keep the innermost failing module whole and try again."""
    opaque: dict[str, str] = {}
    while True:
        tracer = _LeafTracer(set(opaque))
        try:
            graph = tracer.trace(net, _defaults(net))
            for bound in [n for n in graph.nodes if n.op == "placeholder"][1:]:
                graph.erase_node(bound)  # an optional argument, bound to its default
            return fx.GraphModule(tracer.root, graph), opaque, "traced"
        except Exception as error:
            path, reason = tracer.failed_in, str(error).splitlines()[0] if str(error) else type(error).__name__
            if path is None or path in opaque:
                raise CaptureError(f"tracing {type(net).__name__}.forward failed: {reason}") from error
            opaque[path] = reason


def _defaults(net: nn.Module) -> dict[str, object]:
    """Bind optional arguments of forward to their defaults, so that the graph has one placeholder."""
    parameters = list(inspect.signature(net.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _chain(net: nn.Module, example_input: Tensor) -> tuple[fx.GraphModule, dict[str, str], str]:
    """The root's children in the order they ran, accepted only when each one's output is the next one's input."""
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        child.register_forward_hook(lambda _m, args, out, name=name: calls.append((name, args, out)))
        for name, child in net.named_children()
    ]
    try:
        with torch.no_grad():
            result = net(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    graph, value = fx.Graph(), example_input
    node = graph.placeholder("input")
    for name, args, out in calls:
        if len(args) != 1 or args[0] is not value:
            raise CaptureError(
                f"the children of {type(net).__name__} do not form a chain: {name} is not fed by the one before"
            )
        node, value = graph.call_module(name, (node,)), out
    if not calls or value is not result:
        raise CaptureError(f"the output of {type(net).__name__} is not the output of its last child")
    graph.output(node)
    return fx.GraphModule(net, graph), {name: "the root's forward cannot be traced" for name, _, _ in calls}, "chain"


def _remove_inplace(graph_module: fx.GraphModule) -> None:
    """Activations are read after the node that made them has run (goodness, PEPITA's h), so nothing may overwrite them."""
    inplace = {
        operator.iadd: operator.add,
        operator.isub: operator.sub,
        operator.imul: operator.mul,
        operator.itruediv: operator.truediv,
    }
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            node.target = inplace.get(node.target, node.target)
        if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            if hasattr(Tensor, node.target[:-1]):
                node.target = node.target[:-1]
        if node.op in ("call_function", "call_method") and node.kwargs.get("inplace"):
            node.update_kwarg("inplace", False)
    graph_module.recompile()


def _modules_for_functional_dropout(
    net: nn.Module, graph_module: fx.GraphModule, opaque: dict[str, str]
) -> dict[str, nn.Module]:
    """Tracing bakes ``F.dropout(x, training=self.training)`` into a constant; a module follows train() and eval().

    The model was traced in eval mode; a second trace in train mode says which constants were ``self.training``.
    """
    nodes = [n for n in graph_module.graph.nodes if n.op == "call_function" and n.target in _FUNCTIONAL_DROPOUT]
    if not nodes:
        return {}
    net.train()
    try:
        train_graph = _LeafTracer(set(opaque)).trace(net, _defaults(net))
    except Exception as error:
        raise CaptureError(
            f"functional dropout in {type(net).__name__}: its forward traces in eval mode but not in train mode",
            str(error),
            "use nn.Dropout modules",
        ) from error
    finally:
        net.eval()
    in_train = {n.name: n for n in train_graph.nodes}
    dropouts: dict[str, nn.Module] = {}
    for node in nodes:
        bound = _bind_dropout(in_train.get(node.name, node))
        if bound["training"]:
            name = f"dropout{len(dropouts)}"
            dropouts[name] = _FUNCTIONAL_DROPOUT[node.target](bound["p"])
            with graph_module.graph.inserting_after(node):
                graph_module.add_submodule(f"{INSERTED}.{name}", dropouts[name])
                module_node = graph_module.graph.call_module(f"{INSERTED}.{name}", (node.args[0],))
            node.replace_all_uses_with(module_node)
            graph_module.graph.erase_node(node)
    graph_module.recompile()
    return dropouts


_FUNCTIONAL_DROPOUT = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
}


def _bind_dropout(node: fx.Node) -> dict[str, object]:
    bound = inspect.signature(nn.functional.dropout).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _check_against_original(
    graph_module: fx.GraphModule, dropouts: dict[str, nn.Module], example_input: Tensor, expected: Tensor
) -> None:
    for module in dropouts.values():
        module.eval()
    with torch.no_grad():
        got = ShapeProp(graph_module).propagate(example_input)
    if not (isinstance(got, Tensor) and got.shape == expected.shape and torch.equal(got, expected)):
        raise CaptureError(
            "the captured graph does not reproduce the model's own output",
            "its forward is random in eval mode, or a value was baked in by tracing",
            "make forward deterministic in eval mode",
        )
