"""A stage whose rule works in rounds: a step and an end of each, over sums that the rounds share."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_fwd.adaptation import Stage
from lightning_fwd.graph.constants import INSERTED, is_inserted
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.trace import trace_round_end
from lightning_fwd.trace.step_graph import StepGraph

from ..fuse_step import fuse_layers
from ..program import MethodGraph, step_inputs
from .trace import TracedStage, keep_results, renamed, traced_step

_WITH_A_NUMBER = {torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor}


def trace_rounds(stage: Stage, model: RewrittenModel, name: str, batch: tuple[Tensor, Tensor]) -> TracedStage:
    """Step and end of each round.

    What a step lets grow is of no use behind its round's end, and the loop clears it. So sums of one shape are one piece of memory in all
    rounds. What an end does not read (the count of samples) is the loop's to keep.
    """
    known = dict([*model.named_parameters(), *model.named_buffers()])
    methods, values, rounds = list[MethodGraph](), dict[str, Tensor](), list[int]()
    for samples in stage.method.stages(model):
        step, end = traced_step(stage, model, batch), trace_round_end(model)
        numbers = _numbers_as_state(end)
        fuse_layers(end.module)
        keep_results(step, end.state)
        names = _names(step, end, name, known)
        values |= {new: (numbers | known)[old].detach() for old, new in names.items()}
        step, end = renamed(step, names), renamed(end, names)
        methods += [MethodGraph(step, step_inputs(step, *batch), ()), MethodGraph(end, (), ())]
        rounds.append(samples)
    return TracedStage(stage, model, name, methods, values, rounds=tuple(rounds))


def _numbers_as_state(end: StepGraph) -> dict[str, Tensor]:
    """Numbers that a graph adds or multiplies by become state of it; by name. ExecuTorch makes constants of them itself, in the wrong order
    where a method has no input."""
    found = dict[str, Tensor]()
    first = next(iter(end.graph.nodes))
    for node in list(end.graph.nodes):
        if node.target not in _WITH_A_NUMBER or not isinstance(node.args[1], int | float):
            continue
        name = f"{INSERTED}.number{node.args[1]}"
        if name not in found:
            found[name] = torch.tensor(float(node.args[1]))
            with end.graph.inserting_before(first):
                end.state[name] = end.graph.placeholder(f"number_{len(found)}").name
        node.args = (node.args[0], next(n for n in end.graph.nodes if n.name == end.state[name]))
    end.module.recompile()
    return found


def _names(step: StepGraph, end: StepGraph, name: str, known: dict[str, Tensor]) -> dict[str, str]:
    """All state of both under the library's names."""
    names, of_shape = dict[str, str](), dict[str, int]()
    for old in [*step.state, *end.state]:
        if old in step.mutated and is_inserted(old):
            assert not known[old].any(), f"{old} does not begin with zeros"
            like = "x".join(map(str, known[old].shape)) or str(known[old].dtype).removeprefix("torch.")
            if old not in names:
                of_shape[like] = of_shape.get(like, -1) + 1
                names[old] = f"{name}.sum{of_shape[like]}.{like}"
        else:
            names[old] = f"{name}.{old}" if is_inserted(old) else old
    return names
