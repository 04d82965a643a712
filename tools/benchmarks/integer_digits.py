"""Digits from scratch by each rule, in float and in integers: same initial weights, same batches, mean and spread over seeds.

    python tools/benchmarks/integer_digits.py --rules backprop_mlp local_loss_mlp --epochs 10

One line per rule, seed and arithmetic as it ends, then the table. SGD with momentum 0.9 (zeroth order without), cosine schedule to 0,
batches of 32.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.data import DriftDataModule
from lightning_fwd.integer import IntegerRule
from lightning_fwd.models.small import MLP

BATCH, MOMENTUM, RATE = 32, 0.9, 0.1


def _mlp() -> nn.Module:
    return MLP(64, (256, 256))


def _small() -> nn.Module:
    return MLP(64, (64,))


def _conv() -> nn.Module:
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


RULES = {
    "backprop_mlp": (lf.Backprop, _mlp),
    "backprop_small": (lf.Backprop, _small),
    "local_loss_mlp": (lf.LocalLoss, _mlp),
    "backprop_conv": (lf.Backprop, _conv),
    "local_loss_conv": (lf.LocalLoss, _conv),
    "direct_feedback_mlp": (lf.DirectFeedback, _mlp),
    "direct_feedback_conv": (lf.DirectFeedback, _conv),
    "sparse_update_conv": (lambda: lf.SparseUpdate({"2": 0.5, "6": 1.0}), _conv),
    "zeroth_order_small": (lambda: lf.ZerothOrder("head", scale=0.03, samples=8), _small),
    "forward_forward_mlp": (lambda: lf.ForwardForward(head="layers"), _mlp),
    "forward_forward_conv": (lambda: lf.ForwardForward(head="layers", label="pattern"), _conv),
    "pepita_mlp": (lambda: lf.Pepita(second_pass="tangent"), _mlp),
    "pepita_conv": (lambda: lf.Pepita(second_pass="tangent"), _conv),
}
RATES = {"forward_forward_mlp": 0.03, "zeroth_order_small": 1.0}  #: the first: 0.1 diverges in float, features of mean square 1
WITHOUT_MOMENTUM = {"zeroth_order_small"}  #: which has none in integers


def train(
    rule: str,
    seed: int,
    epochs: int,
    integer: lf.Integer | None,
    rate: float | None = None,
    batch: int = BATCH,
    momentum: float = MOMENTUM,
) -> tuple[float, float]:
    """Test accuracy in percent, and milliseconds per step."""
    data, rate = DriftDataModule("digits", seed=seed), rate or RATES.get(rule, RATE)
    (x, y), (test_x, test_y) = data.tensors("train"), data.tensors("test")
    torch.manual_seed(seed)
    method, net = RULES[rule][0](), RULES[rule][1]()
    model = lf.rewrite(net, method if integer is None else IntegerRule(method, integer), x[:batch])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=momentum)
    if integer is not None:
        model.method.follow(optimizer)
    generator, steps, start = torch.Generator().manual_seed(seed + 77), epochs * math.ceil(len(x) / batch), time.perf_counter()
    for step in range(steps):
        if step % math.ceil(len(x) / batch) == 0:
            batches = list(torch.randperm(len(x), generator=generator).split(batch))
        index = batches[step % len(batches)]
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        model.train()
        optimizer.zero_grad()
        with model.step(y[index]):
            model.backward(F.cross_entropy(model(x[index]), y[index]))
        optimizer.step()
    each = (time.perf_counter() - start) / steps
    model.eval()
    with torch.no_grad():
        return 100 * float((model(test_x).argmax(1) == test_y).float().mean()), 1000 * each


def _row(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--error-bits", type=int, default=16)
    parser.add_argument("--scales", default="row", choices=["row", "tensor"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"float": None, "integer": lf.Integer(scales=options.scales, error_bits=options.error_bits)}
    lines = ["| rule | float [%] | integer [%] |", "|---|---:|---:|"]
    for rule in options.rules:
        found: dict[str, list[float]] = {name: [] for name in settings}
        for seed in options.seeds:
            for name, integer in settings.items():
                accuracy, each = train(rule, seed, options.epochs, integer, momentum=0.0 if rule in WITHOUT_MOMENTUM else MOMENTUM)
                found[name].append(accuracy)
                print(f"{rule} seed {seed} {name}: {accuracy:.2f} %, {each:.1f} ms per step", flush=True)
        lines.append(f"| {rule} | {_row(found['float'])} | {_row(found['integer'])} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
