"""A stage's step as a graph whose weights are the network's and whose own state (heads, momentum, counters) is the stage's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_fwd.adaptation import Stage
from lightning_fwd.adaptation.train import loss_for
from lightning_fwd.graph.constants import is_inserted
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.trace.optimizers import is_optimizer_state
from lightning_fwd.trace.step_graph import StepGraph, trace_inference, trace_step

from ..c_code import stages as c_stages
from ..c_code.unit import LEARNING_RATE, MOMENTUM
from ..errors import ExportError
from ..fuse_step import fuse_step
from ..program import MethodGraph, step_inputs


@dataclass
class TracedStage:
    """A stage, ready for a program.

    Attributes:
        stage: as the device runs it. model: a copy of the network under its rule. name: a C identifier, unique.
        methods: its step; of a rule in rounds step and end of each. values: initial content of all state that they read or write.
        rate: of a step in integers. reconstructs: whether its target is its input.
        rounds: the samples that each takes.
    """

    stage: Stage
    model: RewrittenModel
    name: str
    methods: list[MethodGraph]
    values: dict[str, Tensor]
    rate: tuple[int, ...] = ()
    reconstructs: bool = False
    rounds: tuple[int, ...] = ()

    @property
    def epochs(self) -> int:
        """All rounds together are one."""
        return 1 if self.rounds else self.stage.epochs or self.stage.default_epochs

    @property
    def named(self) -> dict[str, MethodGraph]:
        """Its methods by their names in the program."""
        return dict(zip(self.table(()).methods, self.methods, strict=True))

    @property
    def numbers(self) -> dict[str, int | float]:
        """Rate and momentum, as numbers of the program."""
        if not self.methods[0].graph.trained:
            return {}
        prefix = f"{self.table(()).method}_"
        return {prefix + LEARNING_RATE: float(self.stage.lr[0]), prefix + MOMENTUM: float(self.stage.momentum)}

    def table(self, weights: Sequence[str]) -> c_stages.Stage:
        """Its row in the C, ``weights`` being what ``get_weights`` gives."""
        changed = {name for method in self.methods for name in method.graph.mutated}
        changes = tuple(i for i, name in enumerate(weights) if name in changed)
        learns = self.stage.learns or self.reconstructs
        return c_stages.Stage(self.name, self.stage.batch_size, self.epochs, learns, changes, self.rate, self.reconstructs, self.rounds)


def traced_step(stage: Stage, model: RewrittenModel, batch: tuple[Tensor, Tensor]) -> StepGraph:
    """One step of a stage, the updates in place of gradients."""
    step = trace_step(model, batch, loss=loss_for(batch[1]), optimizer="sgd", lr=stage.lr[0], momentum=stage.momentum)
    fuse_step(step, stage.lr[0], stage.momentum)
    return step


def trace_repeated(stage: Stage, model: RewrittenModel, name: str, batch: tuple[Tensor, Tensor]) -> TracedStage:
    """A stage whose step is repeated as it is."""
    step = traced_step(stage, model, batch)
    results = ("loss",) if stage.learns else ()
    if not stage.learns:
        keep_results(step, step.state)
    known, values = dict([*model.named_parameters(), *model.named_buffers()]), {}
    new_names = {old: f"{name}.{old}" if is_inserted(old) or is_optimizer_state(old) else old for old in step.state}
    for old, new in new_names.items():
        like = step.node(old).meta["val"]
        values[new] = known[old].detach() if old in known else torch.zeros(like.shape, dtype=like.dtype)
    step = renamed(step, new_names)
    return TracedStage(stage, model, name, [MethodGraph(step, step_inputs(step, *batch), results)], values)


def with_features(forward: StepGraph) -> StepGraph:
    """A traced prediction that also hands out what its last linear layer reads.

    Raises:
        ExportError: it does not end in one.
    """
    logits, aten = forward.results["logits"], torch.ops.aten
    place = {aten.addmm.default: 1, aten.mm.default: 0, aten.linear.default: 0}.get(logits.target)
    if place is None:
        raise ExportError("the network does not end in a linear layer", "drift is noticed by what that reads", "leave false_alarms out")
    output = next(n for n in reversed(forward.graph.nodes) if n.op == "output")
    output.args = ((logits, logits.args[place]),)
    forward.outputs.append("features")
    forward.module.recompile()
    return forward


def keep_results(step: StepGraph, wanted: Container[str]) -> None:
    """Leave nothing in a step but what these results need: of one without labels, no loss and no logits."""
    output = next(n for n in reversed(step.graph.nodes) if n.op == "output")
    kept = {name: node for name, node in step.results.items() if name in wanted}
    output.args = (tuple(kept.values()),)
    step.outputs[:] = list(kept)
    step.graph.eliminate_dead_code()
    for names in (step.inputs, step.state):
        for name, node in list(names.items()):
            placeholder = next(n for n in step.graph.nodes if n.name == node)
            if not placeholder.users and name != "input" and name not in kept:
                step.graph.erase_node(placeholder)
                del names[name]
    step.module.recompile()


def renamed(step: StepGraph, names: dict[str, str]) -> StepGraph:
    """A step under other names of its state."""
    return dataclasses.replace(
        step,
        state={names[old]: node for old, node in step.state.items()},
        outputs=[names.get(old, old) for old in step.outputs],
        gradients={names.get(old, old): node for old, node in step.gradients.items()},
        trained=tuple(names.get(old, old) for old in step.trained),
    )


def stage_names(stages: Sequence[Stage]) -> list[str]:
    """C identifiers, one for each stage."""
    names = [re.sub(r"\W+", "_", stage.name.lower()).strip("_") or "stage" for stage in stages]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ExportError(
            f"two stages are called {twice[0]}",
            "each is a function of the library",
            "give each a name of its own: {name: ..., method: ...}",
        )
    functions = [f"{name}_{k}" for name, stage in zip(names, stages, strict=True) if stage.method.has_rounds for k in range(1000)]
    if alike := sorted(set(functions) & set(names)):
        raise ExportError(f"a stage is called {alike[0]}", "so is a round of another stage", "give it a name without a number at its end")
    return names


@torch.no_grad()
def require_own_prediction(stage: Stage, model: RewrittenModel, example: Tensor, net: nn.Module | None = None) -> None:
    """Refuse a rule that predicts, once it has learned, by other means than the network's own layers (``net``, or those of its graph)."""
    predicted = trace_inference(model, example).run(model, example)["logits"]
    plain = model.run(example) if net is None else net(example)
    if not torch.allclose(predicted, plain, rtol=1e-2, atol=1e-2 * float(predicted.abs().max())):
        raise ExportError(
            f"stage {stage.name}: {stage.method!r} predicts by other means than the network's own layers",
            "all stages of a library share one prediction",
            "choose settings by which it predicts by the network (prediction='own')",
        )
