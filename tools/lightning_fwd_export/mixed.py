"""An int8 body with a float tail: what lies before the first trained layer is quantised, the rest learns in float.

The boundary is not chosen here. It is where the traced step stops being a function of the input and of frozen weights alone, so the
scheme that selected the trained layers has chosen it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from executorch.exir.passes.quantize_io_pass import QuantizeInputs
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from lightning_fwd.graph.modes import kept_modes
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.graph.segment import ancestors
from lightning_fwd.trace.step_graph import StepGraph

from .check import Batch, Check, compare
from .errors import ExportError
from .host.runtime import HostProgram
from .int8 import channels_last, compile_config, layer_of, lower_int8, quantise
from .program import StepProgram, build_program


def frozen_boundary(step: StepGraph) -> fx.Node:
    """The one value that leaves the part of a step that depends on the input and on nothing that learns.

    Raises:
        ExportError: there is no such part, or more than one value leaves it.
    """
    changing = {step.node(name) for name in step.mutated} | {step.node(n) for n in ("target",) if n in step.inputs}
    source, of_input, frozen = step.node("input"), set(), set()
    for node in step.graph.nodes:
        if node.op == "output" or node in changing or any(n not in frozen for n in node.all_input_nodes):
            continue
        frozen.add(node)
        if node is source or any(n in of_input for n in node.all_input_nodes):
            of_input.add(node)
    leaving = [n for n in step.graph.nodes if n in of_input and any(user not in frozen for user in n.users)]
    if leaving == [source] or source in leaving:
        raise ExportError(
            "int8 needs a frozen part before the first trained layer, and this step trains from the input on. "
            "Train fewer layers (for example sparse_update of the last ones), or export in float"
        )
    if len(leaving) != 1:
        raise ExportError(
            f"{len(leaving)} values cross from the frozen part to the trained part ({', '.join(map(str, leaving))}); "
            "int8 needs a single one. Start training at the input of a block"
        )
    return leaving[0]


def body_module(model: RewrittenModel, step: StepGraph, boundary: fx.Node, x: Tensor) -> fx.GraphModule:
    """The original layers up to the boundary: the last value of the captured graph that equals the traced one."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    values: dict[fx.Node, Tensor] = {}
    wanted, found = _value_of(step, boundary, model, x), None
    model.eval()
    for node in model.graph_before.nodes:
        if node.op == "output":
            break
        copied[node] = graph.node_copy(node, copied.__getitem__)
        values[node] = _run(node, values, model, x)
        value = values[node]
        if isinstance(value, Tensor) and value.shape == wanted.shape and torch.allclose(value, wanted, rtol=1e-3, atol=1e-4):
            found = node
    if found is None:
        raise ExportError(f"no layer's output equals the boundary of the trained part ({boundary.meta.get('layer')})")
    graph.output(copied[found])
    body = fx.GraphModule(model, graph)
    body.graph.eliminate_dead_code()
    body.recompile()
    return body.eval()


def _run(node: fx.Node, values: dict[fx.Node, Tensor], model: nn.Module, x: Tensor):
    if node.op == "placeholder":
        return x
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        if node.op == "get_attr":
            value = model
            for part in node.target.split("."):
                value = getattr(value, part)
            return value
        if node.op == "call_module":
            return model.get_submodule(node.target)(*args, **kwargs)
        return node.target(*args, **kwargs) if node.op == "call_function" else getattr(args[0], node.target)(*args[1:], **kwargs)


def _value_of(step: StepGraph, node: fx.Node, model: nn.Module, x: Tensor) -> Tensor:
    """What the traced graph holds at ``node`` for this input."""
    known = dict([*model.named_parameters(), *model.named_buffers()]) | {"input": x}
    names = {n: name for name, n in (step.inputs | step.state).items()}
    needed = ancestors([node])
    values: dict[fx.Node, Tensor] = {}
    for current in step.graph.nodes:
        if current in needed:
            args, kwargs = fx.map_arg((current.args, current.kwargs), lambda n: values[n])
            with torch.no_grad():
                values[current] = known[names[current.name]] if current.op == "placeholder" else current.target(*args, **kwargs)
    return values[node].detach()


def _start_at(step: StepGraph, boundary: fx.Node, body: fx.GraphModule) -> None:
    """Let the graph compute its boundary by ``body(input)``, in the memory layout that the float part reads."""
    step.module.add_module("body", body)
    before = set(step.graph.nodes)
    with step.graph.inserting_before(boundary):
        inputs = dict(zip((n for n in body.graph.nodes if n.op == "placeholder"), [step.node("input")], strict=True))
        result = step.graph.graph_copy(body.graph, inputs)
        (result,) = result if isinstance(result, tuple | list) else (result,)
        value = step.graph.call_function(torch.ops.aten.clone.default, (result,), {"memory_format": torch.contiguous_format})
    for node in [n for n in step.graph.nodes if n not in before]:  # the quantiser's notes in meta["custom"] stay with their nodes
        node.target = f"body.{node.target}" if node.op == "get_attr" else node.target
        latest = next((n.meta["layer"] for n in reversed(node.all_input_nodes) if n.op == "call_function"), "")
        node.meta |= {"layer": layer_of(node) or latest, "phase": "forward"}
    value.meta |= {"val": boundary.meta["val"], "layer": boundary.meta.get("layer", "")}
    boundary.replace_all_uses_with(value)
    step.graph.eliminate_dead_code()
    for name in [n for n in step.state if not step.node(n).users]:
        step.graph.erase_node(step.node(name))
        del step.state[name]


def build_mixed(
    model: RewrittenModel,
    train_step: StepGraph,
    forward: StepGraph,
    values: dict[str, Tensor],
    example_batch: Batch,
    calibration: Iterable[Tensor] | None,
    numbers: dict[str, int | float] | None = None,
) -> StepProgram:
    """Program whose methods take int8 input (scale and zero point in ``*_input0_scale`` and ``*_input0_zp``); arguments as for ``build_program``.

    Raises:
        ExportError: no frozen part, no calibration data, or an update got lost.
    """
    x, target = example_batch[0].detach(), example_batch[1]
    boundary, again = frozen_boundary(train_step), None
    body = body_module(model, train_step, boundary, x)
    quantised = quantise(body, calibration or [], x)
    reference = _value_of(train_step, boundary, model, x)
    for node in forward.graph.nodes:
        alike = isinstance(node.meta.get("val"), Tensor) and node.meta["val"].shape == reference.shape and node.op == "call_function"
        if alike and torch.allclose(_value_of(forward, node, model, x), reference, rtol=1e-4, atol=1e-5):
            again = node
    if again is None:
        raise ExportError("the prediction does not pass the boundary of the trained part, so the int8 body cannot serve both")
    _start_at(train_step, boundary, quantised)
    _start_at(forward, again, quantised)
    kept = {name: value for name, value in values.items() if name in train_step.state or name in forward.state}
    numbers = dict(numbers or {})

    def lower(program: ExportedProgram, method: str) -> ExportedProgram:
        if method != "get_weights":
            quantiser = QuantizeInputs(None, [0], method, exported_program=program)
            quantiser.call(program.graph_module)
            scale, zero_point = quantiser.quant_args[0][:2]
            numbers.update({f"{method}_input0_scale": float(scale), f"{method}_input0_zp": int(zero_point)})
        return lower_int8(program)

    return build_program(
        train_step, forward, kept, (channels_last(x), target), lower=lower, compile_config=compile_config(), numbers=numbers
    )


def quantise_input(x: Tensor, program_numbers: dict[str, int | float], method: str = "train_step") -> Tensor:
    """A float batch as the program takes it: int8, channels last."""
    scale, zero_point = program_numbers[f"{method}_input0_scale"], program_numbers[f"{method}_input0_zp"]
    return channels_last(torch.clamp(torch.round(x / scale) + zero_point, -128, 127).to(torch.int8))


def check_mixed(program: StepProgram, model: RewrittenModel, batches: list[Batch], uses_target: bool, tolerance: float = 1e-5) -> Check:
    """Hold the program on the host runtime against its lowered training step in PyTorch, integer arithmetic included.

    What the int8 body costs against the float model is counted in predictions of the same class, on the first 100 batches, where there are classes;
    it is no error.

    Raises:
        ExportError: loss or logits stray apart by more than the tolerance (relative where above 1).
    """
    host, check = HostProgram(program.data), Check(0, 0.0, 0.0, 0.0, [])
    if not batches[0][1].is_floating_point():  # else there are no classes
        check.same_predictions = _same_predictions(host, model, [x for x, _ in batches[:100]], program.numbers)
    for x, target in batches:
        q = quantise_input(x, program.numbers)
        inputs = (q, target) if uses_target else (q,)
        check.calls.append(inputs)
        got_loss, got_logits = host.run("train_step", *inputs)
        with torch.no_grad():
            loss, logits = program.reference(*inputs)
        check.logits = compare(check.logits, got_logits, logits, f"logits of step {check.steps}", tolerance)
        check.loss = compare(check.loss, got_loss, loss, f"the loss of step {check.steps}", tolerance)
        check.steps += 1
    learned = {n.rpartition(".")[2].partition("_")[2]: b for n, b in program.reference.named_buffers() if "state.learned" in n}
    for name, value in zip(program.weights, host.run("get_weights"), strict=True):
        expected = learned[re.sub(r"\W", "_", name)]
        check.weights = compare(check.weights, value, expected, f"{name} after {check.steps} steps", tolerance)
    return check


def _same_predictions(host: HostProgram, model: RewrittenModel, inputs: list[Tensor], numbers: dict[str, int | float]) -> float:
    with torch.no_grad(), kept_modes(model):
        model.eval()
        alike = [host.run("forward", quantise_input(x, numbers, "forward"))[0].argmax(1) == model(x).argmax(1) for x in inputs]
    return float(torch.cat(alike).float().mean())
