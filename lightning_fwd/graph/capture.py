"""Capture any classifier as one torch.fx graph: tensor in, logits out.

The ladder, each rung tried when the one above fails: symbolic trace; trace again with the innermost failing module kept
whole (a leaf, reported as opaque); the same with sizes as numbers, where forward counts or asserts by them (the model is then bound to
the example's shape, batch aside); an ordered chain of the root's children; a clear error. Whatever rung succeeds, the
captured graph is run once beside the original: a graph that computes something else is an error, not a wrong result. A number
that forward reads from an attribute (``self.alpha``) is a constant of the graph; what is to change later must be a buffer.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ..errors import CaptureError
from .capturable import check_signature, example_and_output, within_hooks
from .constants import INSERTED, mark_constants
from .generators import kept_generators
from .lazy import materialise
from .leading_sizes import mark_other_leading_sizes
from .modes import set_modes
from .module_state import ModuleState
from .out_of_place import activations_out_of_place, remove_inplace
from .priced_as import Inserted
from .tracer import LeafTracer, where_in_the_model
from .training_mode import differing_modules, first_difference, insert_dropout_modules, left_out


class _OfTheRoot(CaptureError):
    """The root's own forward does what no graph of its children does: no other rung may leave it out."""


@dataclass(frozen=True)
class Capture:
    """A model as a graph.

    Attributes:
        graph_module: nodes carry ``meta["tensor_meta"]`` (shape, dtype) for the example input.
        opaque: paths of the modules kept whole because their inside cannot be traced, with the reason.
        how: ``"traced"`` or ``"chain"`` (of children).
        fixed_shape: whether sizes of the example, the batch's aside, are numbers in the graph.
        inserted: what tracing made beside the model's own: modules that stand in for functional dropout, constants.
    """

    graph_module: fx.GraphModule
    opaque: dict[str, str]
    how: str
    inserted: nn.Module
    fixed_shape: bool = False


def capture(net: nn.Module, example_input: Tensor) -> Capture:
    """Capture ``net`` as a graph from one tensor to one tensor.

    Args:
        net: any module whose forward takes one tensor ``(B, ...)`` and returns logits ``(B, C)``.
        example_input: a tensor of the shape, dtype and device that ``net`` takes.

    Raises:
        CaptureError: the model takes several inputs, returns something else than one tensor, or cannot be traced; ``net`` is then
            unchanged.
    """
    check_signature(net)
    materialise(net, example_input)
    modes, state = {module: module.training for module in net.modules()}, ModuleState(net)
    net.eval()
    try:
        example_input, expected = example_and_output(net, example_input)
        writing = state.written_buffers()
        failures: list[str] = []
        for attempt in (_trace, _trace_sized, _chain):
            try:
                with kept_generators():
                    captured = attempt(net, example_input, writing)
                _by_position(captured.graph_module)
                remove_inplace(captured.graph_module)
                state.restore()
                with activations_out_of_place(net):
                    if captured.fixed_shape:
                        _check_on_one_more(captured.graph_module, net, example_input)
                    _check_against_original(captured.graph_module, example_input, expected)
                    mark_other_leading_sizes(captured.graph_module, example_input)
                mark_constants(captured.graph_module.graph)
                return captured
            except CaptureError as error:
                failures.append(error.what + (f" ({error.why})" if error.why else ""))
                if isinstance(error, _OfTheRoot):
                    break
        raise CaptureError(
            f"{type(net).__name__} cannot be captured as a graph",
            "; then ".join(dict.fromkeys(failures)),
            "move what decides by values, counts by the batch or draws random numbers in Python into a submodule (it is then kept whole), "
            "or build the model as a sequence of children",
        )
    finally:
        state.restore()
        set_modes(modes)


def _trace_sized(net: nn.Module, example_input: Tensor, writing: dict[nn.Module, list[str]]) -> Capture:
    return _trace(net, example_input, writing, example_input)


def _trace(net: nn.Module, _example: Tensor, writing: dict[nn.Module, list[str]], sizes_of: Tensor | None = None) -> Capture:
    """Symbolic trace, in eval mode and in train mode; a module that cannot be traced, that writes into itself, or in which the two differ,
    is kept
    whole.
    """
    opaque: dict[str, str] = {}
    at_root = _keep_writers_whole(net, writing, opaque)
    while True:
        graph, constants = _trace_keeping(net, opaque, at_root, sizes_of)
        net.train()
        try:
            in_train, _ = _trace_keeping(net, opaque, at_root, sizes_of)
        finally:
            net.eval()
        if graph is None or in_train is None:
            continue  # with more modules kept whole
        path, operation = first_difference(graph, in_train) or (None, None)
        if path is None or path in opaque:
            break
        opaque |= dict.fromkeys(differing_modules(graph, in_train) or {path}, "computes something else in training")
    if operation is not None:
        _require_one_output(net, in_train)
        warnings.warn(left_out(net, graph, in_train, operation), stacklevel=4)
    if at_root:
        warnings.warn(
            f"{type(net).__name__}.forward writes {', '.join(sorted(at_root))} into the module; a rewritten model leaves them as they are",
            stacklevel=4,
        )
    if silent := _hooked_and_not_called(net, graph):
        warnings.warn(
            f"forward hooks on {', '.join(silent)} run while the network is captured and not again: a rewritten model calls the layers "
            "inside",
            stacklevel=4,
        )
    for name, constant in constants.items():
        net.__dict__[name] = constant
    graph_module = fx.GraphModule(net, graph)
    for name in constants:
        del net.__dict__[name]
    inserted = Inserted()
    graph_module.add_submodule(INSERTED, inserted)
    for node in graph.nodes:
        if node.op == "get_attr" and node.target in constants:  # made while tracing: ours, not the model's
            inserted.register_buffer(node.target, constants[node.target], persistent=False)
            node.target = f"{INSERTED}.{node.target}"
    insert_dropout_modules(graph_module, inserted, in_train)
    return Capture(graph_module, opaque, "traced", inserted, sizes_of is not None)


def _trace_keeping(
    net: nn.Module, opaque: dict[str, str], at_root: set[str], sizes_of: Tensor | None
) -> tuple[fx.Graph | None, dict[str, Tensor]]:
    """One trace with the ``opaque`` modules kept whole, and the constants it made; None where one more must be, now listed in ``opaque``.

    What the root writes into itself goes to ``at_root``.
    """
    tracer, before, state, known = LeafTracer(set(opaque), sizes_of), set(net.__dict__), ModuleState(net), len(opaque)
    graph: fx.Graph | None
    try:
        graph = tracer.trace(net)
    except Exception as error:  # whatever the model's code raises on a traced value
        path, reason = tracer.failed_in, str(error).splitlines()[0] if str(error) else type(error).__name__
        if path is None or path in opaque:
            where = where_in_the_model(error)
            raise CaptureError(f"tracing {type(net).__name__}.forward failed{f' at {where}' if where else ''}: {reason}") from error
        opaque[path] = reason
        graph = None
    finally:
        constants = {name: net.__dict__.pop(name) for name in set(net.__dict__) - before if name.startswith("_tensor_constant")}
        writing = state.written()
        state.restore()
    if "" in tracer.drew:
        raise _OfTheRoot(
            f"{type(net).__name__}.forward itself draws random numbers in Python",
            "what it skips or scales by them would be as it was drawn while the network was captured",
        )
    opaque |= dict.fromkeys(tracer.drew, "its forward draws random numbers in Python")
    if graph is not None:
        opaque |= dict.fromkeys(_switching_gradients_off(net, graph, tracer.switched_off), "its forward switches gradients off")
    if graph is not None:
        at_root |= _keep_writers_whole(net, writing, opaque)
        graph = graph if len(opaque) == known else None
    return graph, constants


def _switching_gradients_off(net: nn.Module, graph: fx.Graph, switched_off: dict[str, list[fx.Node]]) -> list[str]:
    """Paths of modules that compute under ``no_grad`` what would have a gradient in the graph: no matter where nothing before it learns.

    Raises:
        CaptureError: the root does.
    """
    learn = {name for name, p in net.named_parameters(remove_duplicate=False) if p.requires_grad}
    behind: set[fx.Node] = set()
    for node in graph.nodes if switched_off else ():
        reads = node.op == "get_attr" and node.target in learn
        calls = node.op == "call_module" and any(name.startswith(f"{node.target}.") for name in learn)
        if reads or calls or not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
    found = {path: node for path, nodes in switched_off.items() for node in nodes if node in behind}
    if "" in found:
        raise _OfTheRoot(
            f"{type(net).__name__}.forward switches gradients off (no_grad, around {found[''].target}), behind weights that learn",
            "they would get gradients here that they do not get there: in place of no_grad, call .detach() on what comes out, and "
            "requires_grad_(False) on layers that are not to learn; of torch.utils.checkpoint ask for use_reentrant=False",
        )
    return list(found)


def _require_one_output(net: nn.Module, in_train: fx.Graph) -> None:
    if not isinstance(next(n for n in in_train.nodes if n.op == "output").args[0], fx.Node):
        raise CaptureError(
            f"{type(net).__name__}.forward returns several values in training and one in eval mode",
            "a learning rule needs the logits (B, C) as the model's only output, in training too",
        )


def _keep_writers_whole(net: nn.Module, writing: dict[nn.Module, list[str]], opaque: dict[str, str]) -> set[str]:
    """Add the modules that write into themselves to ``opaque``, unless they run as they are already; what the root writes is returned."""
    for path, module in net.named_modules():
        runs_anyway = type(module).__module__.startswith("torch.nn") or any(f"{path}.".startswith(f"{whole}.") for whole in opaque)
        if path and module in writing and not runs_anyway:
            opaque[path] = f"its forward writes {', '.join(writing[module])} into the module"
    return set(writing.get(net, ()))


def _hooked_and_not_called(net: nn.Module, graph: fx.Graph) -> list[str]:
    called = {f"{node.target}." for node in graph.nodes if node.op == "call_module"}
    hooked = [path for path, module in net.named_modules() if path and (module._forward_hooks or module._forward_pre_hooks)]
    return [path for path in hooked if not any(f"{path}.".startswith(target) for target in called)]


def _chain(net: nn.Module, example_input: Tensor, _writing: dict[nn.Module, list[str]]) -> Capture:
    """The root's children in the order they ran, accepted only when each one's output is the next one's input."""
    calls: list[tuple[str, Tensor, Tensor]] = []
    hooks = [
        child.register_forward_hook(lambda _m, args, out, name=name: calls.append((name, args, out)))
        for name, child in net.named_children()
    ]
    try:
        with torch.no_grad():
            result = within_hooks(net)(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    graph, value = fx.Graph(), example_input
    node = graph.placeholder("input")
    for name, args, out in calls:
        if len(args) != 1 or args[0] is not value:
            raise CaptureError(f"the children of {type(net).__name__} do not form a chain: {name} is not fed by the one before")
        node, value = graph.call_module(name, (node,)), out
    if not calls or value is not result:
        raise CaptureError(f"the output of {type(net).__name__} is not the output of its last child")
    graph.output(node)
    opaque = {name: "the root's forward cannot be traced" for name, _, _ in calls}
    return Capture(fx.GraphModule(net, graph), opaque, "chain", nn.Module())


def _by_position(graph_module: fx.GraphModule) -> None:
    """``layer(input=x)`` as ``layer(x)``: passes put other modules in a layer's place."""
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and not node.args and len(node.kwargs) == 1:
            first = next(iter(inspect.signature(graph_module.get_submodule(node.target).forward).parameters))
            if first in node.kwargs:
                node.args, node.kwargs = (node.kwargs[first],), {}
    graph_module.recompile()


def _check_against_original(graph_module: fx.GraphModule, example_input: Tensor, expected: Tensor) -> None:
    with torch.no_grad():
        got = _CheckedShapes(graph_module).propagate(example_input)
    if not (isinstance(got, Tensor) and got.shape == expected.shape and torch.equal(got, expected)):
        raise CaptureError(
            "the captured graph does not reproduce the model's own output",
            "its forward is random in eval mode, writes into a tensor that is read elsewhere, or a value was baked in by tracing",
        )


def _check_on_one_more(graph_module: fx.GraphModule, net: nn.Module, example_input: Tensor) -> None:
    """A size that was taken for a number and is the batch's shows itself on a batch of another size."""
    more = torch.cat([example_input, example_input[:1]])
    with torch.no_grad():
        try:
            expected = within_hooks(net)(more)
        except Exception:  # made for one size of batch
            return
        try:
            same = torch.equal(graph_module(more), expected)
        except Exception:
            same = False
    if not same:
        raise CaptureError(
            f"{type(net).__name__}.forward reads the size of the batch from another dimension than the first, or counts by it"
        )


class _CheckedShapes(ShapeProp):
    """Records shapes, and refuses a module that writes into its input: that activation may be read again by a learning rule."""

    def run_node(self, n: fx.Node) -> object:
        before = [(i, self.env[i]._version) for i in n.all_input_nodes if isinstance(self.env[i], Tensor)]
        result = super().run_node(n)
        for node, version in before:
            if self.env[node]._version != version:
                raise CaptureError(
                    f"{n.target} writes into its input",
                    "a learning rule reads the activation before it again",
                    "compute out of place there, or clone the input first",
                )
        return result
