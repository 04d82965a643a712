"""How the memory of each rule grows with the depth of a network of constant width: prints a Markdown table.

    python tools/cost_depth.py [--depths 4 16 64] [--width int8] [--batch 1]

Activation RAM is the peak over the scheduled step of everything but weights, optimizer state and weight gradients.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict

import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.cost import CostReport, step_cost

RULES = {
    "backprop": lambda: lf.Backprop(),
    "pepita": lambda: lf.Pepita(),
    "pepita, recompute (MEMPEPITA)": lambda: lf.Pepita(recompute=True),
    "forward_forward": lambda: lf.ForwardForward(),
    "local_loss": lambda: lf.LocalLoss(),
    "sparse_update, head": lambda: lf.SparseUpdate(train="head"),
}


def plain_net(depth: int, channels: int = 16, size: int = 16) -> nn.Sequential:
    """``depth`` convolutions 3x3 of the same width with ReLU, then global average pool and a linear layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(depth):
        layers[f"conv{i + 1}"] = nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1)
        layers[f"relu{i + 1}"] = nn.ReLU()
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(channels, 10)}
    net = nn.Sequential(layers)
    net.input_shape = (3, size, size)
    return net


def activation_bytes(report: CostReport) -> int:
    """Peak over the step of input, activations, errors and what is made for them."""
    kept = {"input", "activations", "deltas", "feedback", "label embedding", "loss", "scratch"}
    change = [0] * (len(report.plan.timeline) + 2)
    for buffer in report.plan.buffers:
        if buffer.category in kept or (buffer.category == "heads" and buffer.born >= 0):
            change[buffer.born] += buffer.bytes
            change[buffer.dies + 1] -= buffer.bytes
    alive, peak = 0, 0
    for delta in change:
        alive += delta
        peak = max(peak, alive)
    return peak


def price(rule: str, depth: int, batch: int, width: str) -> CostReport:
    net = plain_net(depth)
    return step_cost(net, torch.zeros(batch, *net.input_shape), width=width, method=RULES[rule]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", default="fp32", choices=("fp32", "int8", "mixed"))
    options = parser.parse_args()
    print(f"Peak activation RAM, bytes ({options.width}, batch {options.batch}, 16 channels of 16 x 16)\n")
    print(f"| rule | {' | '.join(f'{d} layers' for d in options.depths)} | growth |")
    print(f"|---|{'---:|' * (len(options.depths) + 1)}")
    for rule in RULES:
        sizes = [activation_bytes(price(rule, d, options.batch, options.width)) for d in options.depths]
        print(f"| {rule} | {' | '.join(f'{s:,}' for s in sizes)} | {sizes[-1] / sizes[0] - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
