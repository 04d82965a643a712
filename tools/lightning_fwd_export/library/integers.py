"""The stages of a library in integers: as a program, and held bit for bit against Python by the very C that goes to the board."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_fwd.adaptation import Firmware, Stage
from lightning_fwd.adaptation.firmware import for_device
from lightning_fwd.adaptation.integer_stages import IntegerStages
from lightning_fwd.integer.lowering import PREFIX

from ..errors import ExportError
from ..integer import RESULTS, HostLibrary, expected_weights
from ..program import MethodGraph, StepProgram, build_methods, step_inputs
from ..pte import Program
from ..unrolled import require_few_operations
from ..weights_table import own_names
from .check import Call, example_samples, next_batch
from .trace import TracedStage, require_own_prediction, stage_names


def integer_library(
    net: nn.Module, stages: Sequence[Stage], source: Tensor | None, firmware: Firmware
) -> tuple[IntegerStages, list[TracedStage]]:
    """All stages lowered over one set of weights, and each ready for a program.

    Raises:
        RewriteError, StepError: a stage has no integer form; named with the reason. ExportError: two stages would have one name.
    """
    settings = firmware.integer()
    assert settings is not None
    names = stage_names(stages)
    library = IntegerStages(net, list(map(for_device, stages)), names, source, settings)
    traced = []
    for own in library.stages:
        example = own.model.example_input[:1]
        require_own_prediction(own.stage, own.model, example)
        q = library.quantised(example.repeat(own.stage.batch_size, *[1] * (example.ndim - 1)))
        batch = step_inputs(own.step.graph, q, torch.zeros(len(q), dtype=torch.int64), own.rate)
        method = MethodGraph(own.step.graph, batch, ())
        traced.append(TracedStage(own.stage, own.model, own.name, [method], own.own, tuple(own.rate.tolist())))
    return library, traced


def build_integer_library(library: IntegerStages, traced: Sequence[TracedStage]) -> StepProgram:
    """The program: a prediction and every stage's step over the shared weights and exponents."""
    q = library.quantised(library.model.example_input[:1])
    methods, values = {"forward": MethodGraph(library.forward, (q,), RESULTS)}, dict(library.state)
    for stage in traced:
        for name, method in stage.named.items():
            require_few_operations(method.graph)
            methods[name] = method
        values |= stage.values
    read = {name for method in methods.values() for name in method.graph.state}
    numbers = {"input_exponent": int(library.state[f"{PREFIX}input"])}
    values = {name: value for name, value in values.items() if name in read}
    return build_methods(methods, values, library.weights, numbers=numbers, own_names=own_names(library.model, library.stored_as()))


class IntegerLibraryCheck:
    """Each stage by Python and by the program's C, compiled for this machine, on the same batches.

    Attributes: as of :class:`.check.LibraryCheck`; ``run``: a method of the C, from the weights as shipped on.

    Raises:
        ExportError: a bit differs.
    """

    weights = 0.0

    def __init__(
        self,
        program: StepProgram,
        checked: Program,
        sources: dict[str, str],
        library: IntegerStages,
        traced: Sequence[TracedStage],
        steps: int,
    ):
        example = library.model.example_input[:1]
        samples = iter(example_samples(example, library.model.num_classes, traced, steps))
        x, _ = next(samples)
        q, host = library.quantised(x), HostLibrary(sources, checked)
        self.steps, self.run = dict[str, int](), host.run
        self.calls: list[Call] = [("forward", (q,))]
        for own, stage in zip(library.stages, traced, strict=True):
            host.begin()
            _same(host.run("forward", q), library, library.state, q, "the first prediction")
            state, graph = library.state | own.own, own.step.graph
            for number in range(steps):
                inputs, target = next_batch(samples, own.stage.batch_size)
                given = step_inputs(graph, library.quantised(inputs), target, own.rate)
                host.run(stage.table(()).method, *given)
                results = graph.run(own.model, given[0], target, **state, rate=own.rate)
                state = state | {name: results[name] for name in graph.mutated}
                if number == 0:
                    self.calls.append((stage.table(()).method, given))
            self.steps[stage.name] = steps
            if host.weights() != expected_weights(program, state):
                raise ExportError(f"weights of stage {own.stage.name} differ from Python's: a defect worth reporting. Nothing is written")
            _same(host.run("forward", q), library, state, q, f"the prediction after stage {own.stage.name}")
        self.calls.append(("forward", (q,)))
        host.begin()


def _same(got: Sequence, library: IntegerStages, state: dict[str, Tensor], q: Tensor, what: str) -> None:
    logits, exponent = library.logits(q, state)
    if got[0].tolist() != logits.tolist() or int(got[1][0]) != exponent:
        raise ExportError(f"{what} differs from Python's: a defect worth reporting. Nothing is written")
