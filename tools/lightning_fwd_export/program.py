"""Build the ExecuTorch program: ``forward``, ``train_step`` and ``get_weights`` over one set of weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig, to_edge
from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.traceback import preserve_node_meta

from lightning_fwd.trace.optimizers import is_optimizer_state
from lightning_fwd.trace.step_graph import COUNTER, StepGraph

from .errors import ExportError
from .ops import reinplace_updates
from .plan_memory import memory_planning_pass
from .seal import seal

_PRESERVED = (torch.ops.aten.linear.default,)


@dataclass
class StepProgram:
    """A sealed .pte and what a caller needs to know about it.

    Attributes:
        data: the file's bytes.
        weights: names of the tensors ``get_weights`` returns, in order; one that is not the plain model's tensor has a name of its own.
        learned: the model's names of the same.
        arenas: method -> planned bytes: (activations, shared mutable state).
        numbers: constants in the program, such as the scale and zero point of int8 inputs.
        reference: the lowered training step in PyTorch (integer arithmetic included), where it was asked for.
    """

    data: bytes
    weights: list[str]
    learned: list[str]
    arenas: dict[str, tuple[int, int]] = field(default_factory=dict)
    numbers: dict[str, int | float] = field(default_factory=dict)
    reference: nn.Module | None = None


class State(nn.Module):
    """All tensors that live across calls, as buffers: ``learned`` ones in RAM, ``frozen`` ones in Flash."""

    def __init__(self, values: dict[str, Tensor], mutated: Iterable[str]):
        super().__init__()
        self.learned, self.frozen = nn.Module(), nn.Module()
        self.paths: dict[str, str] = {}
        mutated = set(mutated)
        for i, (name, value) in enumerate(values.items()):
            home = "learned" if name in mutated else "frozen"
            key = f"s{i}_" + re.sub(r"\W", "_", name)
            getattr(self, home).register_buffer(key, value.detach().clone().contiguous())
            self.paths[name] = f"state.{home}.{key}"

    def tensor(self, name: str) -> Tensor:
        _, home, key = self.paths[name].split(".")
        return getattr(getattr(self, home), key)


def as_module(step: StepGraph, state: State, results: Iterable[str]) -> fx.GraphModule:
    """The step as a module over ``state``: takes the batch, returns ``results``, writes what the step mutates."""
    graph = fx.Graph()
    names = {node: name for name, node in step.state.items()}
    values: dict[fx.Node, fx.Node] = {}
    for node in step.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            continue
        if node.op != "output":
            values[node] = graph.node_copy(node, lambda n: values.get(n) or _fetch(graph, state, names[n.name], values, n))
    out = {name: values.get(n) or _fetch(graph, state, names[n.name], values, n) for name, n in step.results.items()}
    for name in step.mutated:
        copy = graph.call_function(torch.ops.aten.copy_.default, (graph.get_attr(state.paths[name]), out[name]))
        copy.meta = {"layer": name.rpartition(".")[0], "phase": "update"}
    for node in graph.nodes:  # "custom" is what torch.export carries along
        node.meta["custom"] = {**(node.meta.get("custom") or {}), **{k: node.meta.get(k) or "" for k in ("layer", "phase")}}
    graph.output(tuple(out[name] for name in results))
    root = nn.Module()
    root.state = state
    for name, child in step.module.named_children():
        root.add_module(name, child)
    return fx.GraphModule(root, graph)


def _fetch(graph: fx.Graph, state: State, name: str, values: dict[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    values[node] = graph.get_attr(state.paths[name])
    return values[node]


class Method(nn.Module):
    """A graph run node by node, so that torch.export carries each node's notes over to what it traces."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return fx.Interpreter(self.body).run(*inputs) if isinstance(self.body, fx.GraphModule) else self.body(*inputs)


class _GetWeights(nn.Module):
    def __init__(self, state: State, names: list[str]):
        super().__init__()
        self.state, self.names = state, names

    def forward(self) -> tuple[Tensor, ...]:
        return tuple(self.state.tensor(name).clone() for name in self.names)


def build_program(
    train_step: StepGraph,
    forward: StepGraph,
    values: dict[str, Tensor],
    example_batch: tuple[Tensor, ...],
    lower: Callable[[ExportedProgram, str], ExportedProgram] | None = None,
    compile_config: EdgeCompileConfig | None = None,
    numbers: dict[str, int | float] | None = None,
    results: tuple[str, ...] = ("loss", "logits"),
    own_names: Mapping[str, str] | None = None,
) -> StepProgram:
    """Export both graphs over shared state.

    Args:
        train_step, forward: traced and fused graphs.
        values: every state tensor of either, by name; the initial weights.
        example_batch: input and target of the program's fixed shapes, and rate of a step in integers.
        lower: further passes over each edge program, given its method's name (int8 kernels); the result then has a ``reference``.
        compile_config: of ``to_edge``, where the lowering needs its own.
        numbers: constants to keep in the program; read after the lowering.
        own_names: of tensors that are not the plain model's, by the model's names.
        results: what the training step returns; a prediction returns those that it has.

    Raises:
        ExportError: an update or an initial value would be lost.
    """
    weights = [n for n in train_step.mutated if n != COUNTER and not is_optimizer_state(n)]
    x, *rest = example_batch
    methods = {
        "forward": MethodGraph(forward, (x,), tuple(r for r in results if r in forward.outputs)),
        "train_step": MethodGraph(train_step, step_inputs(train_step, x, *rest), results),
    }
    return build_methods(methods, values, weights, lower, compile_config, numbers, own_names)


@dataclass(frozen=True)
class MethodGraph:
    """A method of a program: a traced and fused graph, example inputs of its fixed shapes, and what it returns."""

    graph: StepGraph
    inputs: tuple[Tensor, ...]
    results: tuple[str, ...]


def build_methods(
    graphs: Mapping[str, MethodGraph],
    values: dict[str, Tensor],
    weights: list[str],
    lower: Callable[[ExportedProgram, str], ExportedProgram] | None = None,
    compile_config: EdgeCompileConfig | None = None,
    numbers: dict[str, int | float] | None = None,
    own_names: Mapping[str, str] | None = None,
) -> StepProgram:
    """Any number of methods over one state; ``get_weights`` gives out ``weights`` beside them. Other arguments as of
    :func:`build_program`.

    Raises:
        ExportError: an update or an initial value would be lost.
    """
    if not weights:
        raise ExportError("the step changes no weights: there is nothing to learn on the device")
    state = State(values, dict.fromkeys(name for method in graphs.values() for name in method.graph.mutated))
    modules = {name: (as_module(m.graph, state, m.results), m.inputs) for name, m in graphs.items()}
    modules["get_weights"] = (_GetWeights(state, weights), ())
    with preserve_node_meta():
        exported = {name: torch.export.export(Method(body), inputs, strict=False) for name, (body, inputs) in modules.items()}
    edge = to_edge(exported, compile_config=compile_config or float_config())
    reference = None
    for name in modules:
        if lower is not None:
            edge._edge_programs[name] = lower(edge.exported_program(name), name)
        if lower is not None and name == "train_step":
            reference = copy.deepcopy(edge.exported_program(name)).module()
        reinplace_updates(edge.exported_program(name))
        label(edge.exported_program(name).graph)
    for name, method in graphs.items():
        _require_updates(edge.exported_program(name), state, method.graph.mutated, "lowering")
    data, arenas = serialise(edge, numbers or {}, ["state_learned_"])
    given_out = [(own_names or {}).get(name, name) for name in weights]
    return StepProgram(data, given_out, weights, {name: arenas[name] for name in modules if name in arenas}, dict(numbers or {}), reference)


def serialise(
    edge: EdgeProgramManager, numbers: dict[str, int | float], initialised: list[str]
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The sealed file of an edge program, and each method's planned bytes: (activations, shared mutable state).

    Args:
        numbers: constants to keep in the program. initialised: parts of the names of the buffers whose initial content goes along.
    """
    edge._config_methods = dict(numbers) or None
    executorch = edge.to_executorch(
        ExecutorchBackendConfig(
            passes=[*([InitializedMutableBufferPass(initialised)] if initialised else []), _fill_labels],
            memory_planning_pass=memory_planning_pass(),
            emit_stacktrace=True,
        )
    )
    plans = executorch.executorch_program.execution_plan
    return seal(executorch.buffer), {p.name: tuple((p.non_const_buffer_sizes + [0, 0])[1:3]) for p in plans}


def float_config() -> EdgeCompileConfig:
    """Of ``to_edge``; made afresh: ExecuTorch appends the list to itself with every method, so a shared one doubles for ever."""
    return EdgeCompileConfig(_check_ir_validity=False, preserve_ops=list(_PRESERVED))


def step_inputs(step: StepGraph, *batch: Tensor) -> tuple[Tensor, ...]:
    """What of an input, a target and a rate the step reads."""
    given = dict(zip(("input", "target", "rate"), batch, strict=False))
    return tuple(given[name] for name in step.inputs)


def _require_updates(program: ExportedProgram, state: State, mutated: Iterable[str], stage: str) -> None:
    kept = set(program.graph_signature.buffers_to_mutate.values())
    lost = [name for name in mutated if f"body.{state.paths[name]}" not in kept]
    if lost:
        raise ExportError(f"{stage} lost the update of {', '.join(lost)}: the device would not learn it. Nothing is written")


# ---- layer and phase travel in the .pte where ExecuTorch keeps stack traces


def label(graph: fx.Graph) -> None:
    for node in graph.nodes:
        custom = node.meta.get("custom") or {}
        node.meta["stack_trace"] = _frame(custom.get("layer", ""), custom.get("phase", ""))


def _frame(layer: str, phase: str) -> str:
    return f'  File "{layer}", line 0, in {phase}\n    -\n'


def _fill_labels(module: fx.GraphModule) -> PassResult:
    for node in module.graph.nodes:
        node.meta.setdefault("stack_trace", _frame("", ""))
    return PassResult(module, True)
