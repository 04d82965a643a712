"""What makes PEPITA move convolutional filters the right way: nets and settings on Fashion-MNIST beside frozen filters and backpropagation.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/fashion_pepita.py

Three epochs of 10,000 images, cosine schedule, seed 0. Prints for each line the accuracy in % on 5,000 test images (10,000 where the net
ends in global average pooling), the cosine between the filters' update and backpropagation's six times during training, and the relative
change of each weight. About a minute of one core.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import OneConv, SmallConv

MIRRORED = {"update_scale": "activity", "mirror_rounds": 100, "mirror_interval": 2, "mirror_share": 0.1}
WIDE, POOLED = {"filters": 8, "kernel": 14, "stride": 7, "pool": 1}, {"kernel": 9, "stride": 3, "padding": 3, "pool": 3}
LINES: list[tuple[dict[str, Any], lf.LearningMethod, float, float]] = [  # net, rule, rate of the filters (0: frozen), rate of the head
    *((WIDE, lf.Pepita(), 0.0, head) for head in (0.02, 0.05, 0.1, 0.2, 0.5)),
    (WIDE, lf.Backprop(), 0.03, 0.03),
    (WIDE, lf.Backprop(), 0.1, 0.1),
    (WIDE, lf.Pepita(), 0.05, 0.05),
    (WIDE, lf.Pepita(update_scale="activity"), 0.05, 0.05),
    *((WIDE, lf.Pepita(**MIRRORED), rate, head) for rate, head in ((0.02, 0.02), (0.05, 0.1), (0.2, 0.1))),
    (WIDE, lf.Pepita(**{**MIRRORED, "update_scale": "root", "feedback_scale": 0.5}), 0.05, 0.05),
    *(
        ({**POOLED, "filters": filters}, rule, rate, 0.1)
        for filters in (4, 8)
        for rule, rate in ((lf.Pepita(), 0.0), (lf.Pepita(**MIRRORED), 0.05), (lf.Pepita(**MIRRORED), 0.2), (lf.Backprop(), 0.1))
    ),
    ({}, lf.Pepita(), 0.0, 0.3),  # three convolutions and global average pooling
    ({}, lf.Backprop(), 0.05, 0.05),
    ({}, lf.Pepita(), 0.05, 0.05),
    ({}, lf.Pepita(**{**MIRRORED, "mirror_interval": 0}), 0.02, 0.1),
    ({}, lf.Pepita(**{**MIRRORED, "mirror_interval": 10}), 0.02, 0.1),
]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    data = DriftDataModule("fashion_mnist", val_fraction=0)
    (x, y), (x_test, y_test) = data.tensors("train"), data.tensors("test")
    mean, std = x.mean(), x.std()
    train, test = ((x[:10000] - mean) / std, y[:10000]), ((x_test - mean) / std, y_test)
    for net, rule, rate, head in LINES:
        print(net or "global average pooling", rule, f"rate {rate}, head {head}", *run(net, rule, rate, head, train, test), flush=True)


def run(net_args: dict, rule: lf.LearningMethod, rate: float, head: float, train, test) -> tuple[str, list, list]:
    """Accuracy, cosines, relative changes of one line."""
    torch.manual_seed(0)
    net = OneConv(**net_args) if net_args else he(SmallConv(1, (16, 32, 32), batch_norm=False))
    last = list(net.classifier.parameters())
    rest = [p for p in net.parameters() if all(p is not q for q in last)]
    start = [p.detach().clone() for p in rest]
    weights = [p for p in rest if p.ndim > 1]
    model = lf.rewrite(net, rule, train[0][:256]).train()
    optimizer = torch.optim.SGD([{"params": last, "lr": head}, {"params": rest, "lr": rate}], head, 0.9)
    batch, epochs, cosines = (64 if net_args else 32), 3, []
    steps = epochs * (len(train[0]) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step % (steps // epochs) == 0:
            order = torch.randperm(len(train[0]), generator=generator)
        at = order[step % (steps // epochs) * batch :][:batch]
        x, y = train[0][at], train[1][at]
        try:
            with model.step(y):
                loss = F.cross_entropy(model(x), y)
            model.backward(loss)
        except lf.StepError:
            return f"diverged at step {step}", cosines, []
        if rate and step % (steps // 6) == 0:
            wanted = torch.autograd.grad(F.cross_entropy(model.run(x), y), weights)
            pairs = [(a.flatten(), p.grad.flatten()) for a, p in zip(wanted, weights, strict=True)]
            cosines.append([round(F.cosine_similarity(a, b, 0).item(), 2) for a, b in pairs])
        optimizer.step(), optimizer.zero_grad(), schedule.step()
    changes = [round(((p - w).norm() / w.norm()).item(), 3) for p, w in zip(rest, start, strict=True) if w.ndim > 1]
    return f"{accuracy(model, *test, 5000 if net_args else 10000):.2f}", cosines, changes


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, count: int) -> float:
    model.eval()
    return 100 * torch.cat([model(x[i : i + 500]).argmax(1) == y[i : i + 500] for i in range(0, count, 500)]).float().mean().item()


def he(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return net


if __name__ == "__main__":
    main()
