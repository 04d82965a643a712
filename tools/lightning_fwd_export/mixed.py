"""An int8 body with a float tail: what lies before the first trained layer is quantised, the rest learns in float."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from executorch.exir.passes.quantize_io_pass import QuantizeInputs
from torch import Tensor, fx
from torch.export import ExportedProgram

from lightning_fwd.graph.modes import kept_modes
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.trace.step_graph import StepGraph

from .boundary import body_module, frozen_boundary, same_values, values_of
from .check import Batch, Check, example_inputs
from .errors import ExportError
from .host.runtime import HostProgram
from .int8 import channels_last, compile_config, layer_of, lower_int8, quantise
from .program import StepProgram, build_program
from .reference import compare


def _start_at(step: StepGraph, boundary: list[fx.Node], body: fx.GraphModule) -> None:
    """Let the graph compute its boundary by ``body(input)``, in the memory layout that the float part reads."""
    step.module.add_module("body", body)
    before = set(step.graph.nodes)
    with step.graph.inserting_before(next(n for n in step.graph.nodes if n in boundary)):
        inputs = dict(zip((n for n in body.graph.nodes if n.op == "placeholder"), [step.node("input")], strict=True))
        results = step.graph.graph_copy(body.graph, inputs)
        results = results if isinstance(results, tuple | list) else (results,)
        layout = {"memory_format": torch.contiguous_format}
        values = [step.graph.call_function(torch.ops.aten.clone.default, (result,), layout) for result in results]
    for node in [n for n in step.graph.nodes if n not in before]:  # the quantiser's notes in meta["custom"] stay with their nodes
        node.target = f"body.{node.target}" if node.op == "get_attr" else node.target
        latest = next((n.meta["layer"] for n in reversed(node.all_input_nodes) if n.op == "call_function"), "")
        node.meta |= {"layer": layer_of(node) or latest, "phase": "forward"}
    for value, replaced in zip(values, boundary, strict=True):
        value.meta |= {"val": replaced.meta["val"], "layer": replaced.meta.get("layer", "")}
        replaced.replace_all_uses_with(value)
    _copy_what_is_viewed(step.graph)
    step.graph.eliminate_dead_code()
    for name in [n for n in step.state if not step.node(n).users]:
        step.graph.erase_node(step.node(name))
        del step.state[name]


def _copy_what_is_viewed(graph: fx.Graph) -> None:
    """``permute(...).contiguous()`` copied nothing where the trace had the values channels last; here they come channels first."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.view.default and node.args[0].target is torch.ops.aten.permute.default:
            permuted = node.args[0]
            with graph.inserting_before(node):
                copied = graph.call_function(torch.ops.aten.clone.default, (permuted,), {"memory_format": torch.contiguous_format})
            copied.meta = dict(permuted.meta)
            node.replace_input_with(permuted, copied)


def build_mixed(
    model: RewrittenModel,
    train_step: StepGraph,
    forward: StepGraph,
    values: dict[str, Tensor],
    example_batch: Batch,
    calibration: Iterable[Tensor] | None,
    numbers: dict[str, int | float] | None = None,
    own_names: Mapping[str, str] | None = None,
) -> StepProgram:
    """Program whose methods take int8 input (scale and zero point in ``*_input0_scale`` and ``*_input0_zp``); arguments as for
    ``build_program``.

    Raises:
        ExportError: no frozen part, no calibration data, or an update got lost.
    """
    x, target = example_batch[0].detach(), example_batch[1]
    boundary = frozen_boundary(train_step)
    probe = next(example_inputs(x, 1))  # an example of zeros would make values alike that are not
    body = body_module(model, train_step, boundary, probe)
    quantised = quantise(body, calibration or [], x)
    wanted, offered = (values_of(step, model, probe) for step in (train_step, forward))
    candidates = [n for n in forward.graph.nodes if n.op == "call_function" and n in offered]
    again = [next((n for n in reversed(candidates) if same_values(offered[n], wanted[b])), None) for b in boundary]
    if None in again:
        raise ExportError(
            "the prediction does not pass the boundary of the trained part in "
            f"{boundary[again.index(None)].meta.get('layer') or 'no layer'}",
            "one int8 body serves the training step and the prediction",
            "export in float, without int8",
        )
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
        train_step,
        forward,
        kept,
        (channels_last(x), target),
        lower=lower,
        compile_config=compile_config(),
        numbers=numbers,
        own_names=own_names,
    )


def quantise_input(x: Tensor, program_numbers: dict[str, int | float], method: str = "train_step") -> Tensor:
    """A float batch as the program takes it: int8, channels last."""
    scale, zero_point = program_numbers[f"{method}_input0_scale"], program_numbers[f"{method}_input0_zp"]
    return channels_last(torch.clamp(torch.round(x / scale) + zero_point, -128, 127).to(torch.int8))


def check_mixed(program: StepProgram, model: RewrittenModel, batches: list[Batch], uses_target: bool, tolerance: float = 1e-5) -> Check:
    """Hold the program on the host runtime against its lowered training step in PyTorch, integer arithmetic included.

    What the int8 body costs against the float model is counted in predictions of the same class, on the first 100 batches, where there are
    classes; it is no error.

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
    for name, value in zip(program.learned, host.run("get_weights"), strict=True):
        expected = learned[re.sub(r"\W", "_", name)]
        check.weights = compare(check.weights, value, expected, f"{name} after {check.steps} steps", tolerance)
    return check


def _same_predictions(host: HostProgram, model: RewrittenModel, inputs: list[Tensor], numbers: dict[str, int | float]) -> float:
    with torch.no_grad(), kept_modes(model):
        model.eval()
        alike = [host.run("forward", quantise_input(x, numbers, "forward"))[0].argmax(1) == model(x).argmax(1) for x in inputs]
    return float(torch.cat(alike).float().mean())
