"""Hold a program against PyTorch, step by step, before anyone relies on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_fwd.graph.modes import kept_modes
from lightning_fwd.graph.rewritten import RewrittenModel

from .host.runtime import HostProgram
from .program import StepProgram
from .reference import InDouble, Trainer, compare, is_chaotic, named_tensors, predict

Batch = tuple[Tensor, Tensor]


@dataclass
class Check:
    """Largest absolute differences between PyTorch and the program over all steps; ``calls`` are the batches it saw. Steps are fewer than
    asked for where PyTorch's own run in float32 has left that in float64.

    ``same_predictions`` of an int8 program: the share of samples whose class, before any training, is that of the float model.
    """

    steps: int
    weights: float
    logits: float
    loss: float
    calls: list[tuple[Tensor, ...]]
    same_predictions: float | None = None


def example_inputs(example: Tensor, count: int, seed: int = 0) -> Iterator[Tensor]:
    """Inputs of the example's shape where no real data is given: its mean and spread, otherwise noise."""
    return (x for x, _ in example_batches((example, torch.zeros(example.shape[:1], dtype=torch.int64)), 1, count, seed))


def example_batches(example: Batch, num_classes: int, steps: int, seed: int = 0) -> Iterator[Batch]:
    """Inputs as above; labels drawn, or the input again where the example's target is a tensor of the input's shape."""
    generator = torch.Generator().manual_seed(seed)
    x, target = example
    mean, spread = x.mean(), x.std() if x.numel() > 1 and float(x.std()) > 0 else torch.tensor(1.0)
    for _ in range(steps):
        drawn = mean + torch.randn(x.shape, generator=generator) * spread
        if target.is_floating_point():
            yield drawn, drawn if target.shape == x.shape else torch.randn(target.shape, generator=generator)
        else:
            yield drawn, torch.randint(0, num_classes, target.shape, generator=generator, dtype=target.dtype)


def check_program(
    program: StepProgram,
    model: RewrittenModel,
    batches: Iterable[Batch],
    uses_target: bool,
    lr: float,
    momentum: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    tolerance: float = 1e-5,
) -> Check:
    """Train the model by ``torch.optim.SGD`` and the program on ExecuTorch's host runtime on the same batches; compare after every step.

    The model is left as it was.

    Raises:
        ExportError: logits, loss or weights differ by more than ``tolerance`` (relative to the largest value where that is above 1) and by
            more than rounding explains, judged by the same training in float64.
    """
    host = HostProgram(program.data)
    check = Check(0, 0.0, 0.0, 0.0, [])
    with _restored(model):
        exact, trainer = InDouble(model, lr, momentum, loss), Trainer(model, lr, momentum, loss)
        for x, target in batches:
            inputs = (x, target) if uses_target else (x,)
            logits, value = trainer.step(x, target)
            exact_logits, exact_value = exact.step(x, target)
            if check.steps and (is_chaotic(logits, exact_logits) or is_chaotic(value, exact_value)):
                break
            check.calls.append(inputs)
            got_loss, got_logits = host.run("train_step", *inputs)
            check.logits = compare(check.logits, got_logits, logits, f"logits of step {check.steps}", tolerance, exact_logits)
            check.loss = compare(check.loss, got_loss, value, f"the loss of step {check.steps}", tolerance, exact_value)
            check.steps += 1
            expected, exactly = named_tensors(model), exact.tensors()
            for name, weights in zip(program.learned, host.run("get_weights"), strict=True):
                what = f"{name} after {check.steps} steps"
                check.weights = compare(check.weights, weights, expected[name], what, tolerance, exactly.get(name))
        else:
            got = host.run("forward", x)[0]
            compare(0.0, got, predict(model, x), "the prediction after training", tolerance * 10, exact.predict(x))
    return check


@contextmanager
def _restored(model: RewrittenModel) -> Iterator[None]:
    """Parameters, buffers, gradients and modes as they were."""
    saved = [(t, t.detach().clone(), t.grad) for t in [*model.parameters(), *model.buffers()]]
    try:
        with kept_modes(model):
            yield
    finally:
        with torch.no_grad():
            for t, value, grad in saved:
                t.copy_(value)
                t.grad = grad


def board_calls(check: Check) -> list[tuple[str, tuple[Tensor, ...]]]:
    """Every step the check ran, then a prediction on the last input."""
    return [*(("train_step", inputs) for inputs in check.calls), ("forward", check.calls[-1][:1])]


def golden_calls(check: Check) -> list[tuple[str, tuple[Tensor, ...]]]:
    """What a self-test calls: a prediction, two steps, a prediction with what they learned."""
    first, second = check.calls[0], check.calls[1 % len(check.calls)]
    return [("forward", first[:1]), ("train_step", first), ("train_step", second), ("forward", first[:1])]
