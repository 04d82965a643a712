"""How long a step in integers takes in Python beside the float step: ResNet-8's tail, batches of 16. Medians of steps in turn.

python tools/benchmarks/integer_speed.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.integer import IntegerRule
from lightning_fwd.methods import LearningMethod
from lightning_fwd.models import ResNet8

SCHEMES = {
    "head": {"classifier": 1.0},
    "16 channels of block3.conv2 + head": {"block3.conv2": 0.25, "classifier": 1.0},
    "block3.conv2 + head": {"block3.conv2": 1.0, "classifier": 1.0},
}


def stepper(method: LearningMethod, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    torch.manual_seed(0)
    model = lf.rewrite(ResNet8().eval(), method, x)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    if isinstance(method, IntegerRule):
        method.follow(optimizer)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with model.step(y):
            model.backward(F.cross_entropy(model(x), y))
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    print("| ResNet-8 | float [ms] | integers [ms] | ratio |\n|---|---:|---:|---:|")
    for name, train in SCHEMES.items():
        method = lf.SparseUpdate(train, batch_norm="freeze")
        steps = stepper(method, x, y), stepper(IntegerRule(method, lf.Integer(room=1)), x, y)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.steps + 3):
            for step, found in zip(steps, times, strict=True):
                start = time.perf_counter()
                step()
                found.append(1000 * (time.perf_counter() - start))
        ratio = statistics.median(b / a for a, b in zip(*(t[3:] for t in times), strict=True))
        print(f"| {name} | {statistics.median(times[0][3:]):.1f} | {statistics.median(times[1][3:]):.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
