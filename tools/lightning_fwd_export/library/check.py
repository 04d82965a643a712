"""Hold a library's program against PyTorch, stage after stage, before anyone relies on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fwd.methods import rewrite

from ..check import Batch, compare, example_batches
from ..count_dropout import count_dropout
from ..host.runtime import HostProgram
from ..program import StepProgram
from .trace import TracedStage

Call = tuple[str, tuple[Tensor, ...]]
TOLERANCE = 1e-5


def check_library(
    program: StepProgram, net: nn.Module, stages: Sequence[TracedStage], batches: Sequence[Batch], steps: int
) -> tuple[float, list[Call]]:
    """Train each stage's rule by PyTorch and by the program on the same batches, one stage on what the one before left.

    Args:
        batches: of one sample each; a stage's batch is put together of them.
        steps: of each stage.

    Returns:
        The largest difference of a weight, and the program's calls: a prediction, one step of each stage, a prediction.

    Raises:
        ExportError: a weight or a prediction differs by more than the tolerance.
    """
    host, worst, golden = HostProgram(program.data), 0.0, list[Call]()
    net, samples = copy.deepcopy(net).eval(), iter(batches)
    x, _ = next(samples)
    golden.append(("forward", (x,)))
    for traced in stages:
        stage, method = traced.stage, traced.table(()).method
        model = count_dropout(rewrite(stage.network(copy.deepcopy(net), x), stage.method, torch.cat([x, x]))).train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, stage.lr[0], stage.momentum) if parameters else None
        for step in range(steps):
            parts = [next(samples) for _ in range(stage.batch_size)]
            inputs, target = torch.cat([p for p, _ in parts]), torch.cat([y for _, y in parts])
            given = tuple(value for value, name in ((inputs, "input"), (target, "target")) if name in traced.method.graph.inputs)
            host.run(method, *given)
            if step == 0:
                golden.append((method, given))
            if optimizer is not None:
                optimizer.zero_grad()
            with model.step(target):
                loss = F.cross_entropy(model(inputs), target)
            model.backward(loss)
            if optimizer is not None:
                optimizer.step()
        net = model.undo().eval()
        expected = dict([*net.named_parameters(), *net.named_buffers()])
        for name, value in zip(program.learned, host.run("get_weights"), strict=True):
            worst = compare(worst, value, expected[name], f"{name} after {steps} steps of stage {stage.name}", TOLERANCE)
        with torch.no_grad():
            compare(0.0, host.run("forward", x)[0], net(x), f"the prediction after stage {stage.name}", TOLERANCE * 10)
    return worst, [*golden, ("forward", (x,))]


def example_samples(example: Tensor, classes: int, stages: Sequence[TracedStage], steps: int) -> list[Batch]:
    """As many samples of one as the check needs: the example with noise."""
    count = 1 + steps * sum(traced.stage.batch_size for traced in stages)
    return list(example_batches((example[:1], torch.zeros(1, dtype=torch.int64)), classes, count))
