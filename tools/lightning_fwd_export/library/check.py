"""Hold a library's program against PyTorch, stage after stage, before anyone relies on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_fwd.adaptation.drift_score import features_of
from lightning_fwd.adaptation.train import loss_for
from lightning_fwd.errors import StepError
from lightning_fwd.methods import rewrite
from lightning_fwd.passes import count_dropout
from lightning_fwd.trace.step_graph import StepGraph

from ..check import Batch, example_batches
from ..host.runtime import HostProgram
from ..program import StepProgram
from ..reference import InDouble, Trainer, compare, is_chaotic, named_tensors, predict, scale_of
from .trace import TracedStage

Call = tuple[str, tuple[Tensor, ...]]
TOLERANCE = 1e-5


class LibraryCheck:
    """Each stage's rule trained by PyTorch and by the program on the same batches.

    Attributes:
        steps: of each stage that were compared, by name; fewer than asked for where PyTorch's own run diverges or leaves that in float64.
        weights: largest difference of a weight, relative to its tensor's largest value where that is above 1.
        calls: of a self-test: a prediction, one step of each stage, a prediction. run: a method, from the weights as shipped on.

    Raises:
        ExportError: a weight or a prediction differs by more than rounding.
    """

    def __init__(self, program: StepProgram, net: nn.Module, stages: Sequence[TracedStage], samples: Sequence[Batch], steps: int):
        self.steps, self.weights, self.calls = dict[str, int](), 0.0, list[Call]()
        self.run = HostProgram(program.data).run
        remaining = iter(samples)
        x, _ = next(remaining)
        self.calls.append(("forward", (x,)))
        for traced in stages:
            batches = [next_batch(remaining, traced.stage.batch_size) for _ in range(steps)]
            if traced.reconstructs:
                batches = [(inputs, inputs) for inputs, _ in batches]
            (self._rounds if traced.rounds else self._stage)(program, net, traced, x, batches)
        self.calls.append(("forward", (x,)))

    def watch(self, program: StepProgram, net: nn.Module, x: Tensor) -> None:
        """The prediction that hands out features, before any step.

        Raises:
            ExportError: it differs from the network's by more than rounding.
        """
        logits, features = HostProgram(program.data).run("watch", x)
        compare(0.0, logits, predict(net, x), "a watched prediction", TOLERANCE)
        compare(0.0, features, features_of(net, x), "what the last layer reads", TOLERANCE)

    def _stage(self, program: StepProgram, net: nn.Module, traced: TracedStage, x: Tensor, batches: list[Batch]) -> None:
        """From the weights as shipped; the others' steps are of no account."""
        stage, method, host = traced.stage, traced.table(()).method, HostProgram(program.data)
        model = count_dropout(rewrite(stage.network(copy.deepcopy(net), x), stage.method, torch.cat([x, x])))
        settings = (stage.lr[0], stage.momentum, loss_for(batches[0][1]))
        exact, trainer = InDouble(model, *settings), Trainer(model, *settings)
        compare(0.0, host.run("forward", x)[0], predict(net, x), "the first prediction", TOLERANCE)
        self.steps[traced.name] = 0
        for number, (inputs, target) in enumerate(batches):
            try:
                logits, _ = trainer.step(inputs, target)
            except StepError:  # it diverged
                break
            exact_logits, _ = exact.step(inputs, target)
            expected, exactly = named_tensors(model), exact.tensors()
            if number and (is_chaotic(logits, exact_logits) or any(is_chaotic(expected[n], exactly.get(n)) for n in program.learned)):
                break
            given = tuple(v for v, name in ((inputs, "input"), (target, "target")) if name in traced.methods[0].graph.inputs)
            host.run(method, *given)
            if number == 0:
                self.calls.append((method, given))
            for name, value in zip(program.learned, host.run("get_weights"), strict=True):
                what = f"{name} after {number + 1} steps of stage {stage.name}"
                difference = compare(0.0, value, expected[name], what, TOLERANCE, exactly.get(name))
                self.weights = max(self.weights, difference / scale_of(expected[name]))
            self.steps[traced.name] += 1
        else:
            got = host.run("forward", x)[0]
            compare(0.0, got, predict(model, x), f"the prediction after stage {stage.name}", 10 * TOLERANCE, exact.predict(x))

    def _rounds(self, program: StepProgram, net: nn.Module, traced: TracedStage, x: Tensor, batches: list[Batch]) -> None:
        """Each round from the weights as shipped, with sums of these batches."""
        methods = list(traced.named.items())
        self.steps[traced.name] = 0
        for (step, of_step), (end, of_end) in zip(methods[::2], methods[1::2], strict=True):
            host, state = HostProgram(program.data), dict(traced.values)
            exact = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
            compare(0.0, host.run("forward", x)[0], predict(net, x), "the first prediction", TOLERANCE)
            for inputs, _ in batches:
                host.run(step, inputs)
                state |= _run(of_step.graph, traced.model, state, inputs)
                exact |= _run(of_step.graph, traced.model, exact, inputs.double())
            host.run(end)
            state |= _run(of_end.graph, traced.model, state, x)
            exact |= _run(of_end.graph, traced.model, exact, x.double())
            known = dict(net.state_dict()) | state
            for name, value in zip(program.learned, host.run("get_weights"), strict=True):
                what = f"{name} after {end}"
                difference = compare(0.0, value, known[name], what, TOLERANCE, exact.get(name))
                self.weights = max(self.weights, difference / scale_of(known[name]))
            self.steps[traced.name] += len(batches)
        self.calls += [(methods[0][0], (batches[0][0],)), (methods[1][0], ())]


def _run(graph: StepGraph, model: nn.Module, state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """What a graph of a round makes of this state."""
    results = graph.run(model, x, None, **{name: state[name] for name in graph.state})
    return {name: results[name] for name in graph.mutated}


def next_batch(samples: Iterator[Batch], size: int) -> Batch:
    """The next so many samples as one batch."""
    parts = [next(samples) for _ in range(size)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def example_samples(example: Tensor, classes: int, stages: Sequence[TracedStage], steps: int) -> list[Batch]:
    """As many samples of one as the check needs: the example with noise."""
    count = 1 + steps * sum(traced.stage.batch_size for traced in stages)
    return list(example_batches((example[:1], torch.zeros(1, dtype=torch.int64)), classes, count))
