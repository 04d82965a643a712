"""Seconds per training step of every learning rule, divided by backpropagation's, beside the ratio that the ledger predicts from MACs;
and backpropagation's, divided by plain PyTorch's.

    python tools/bench_methods.py [--rounds 15] [--only NAME ...] [--json FILE]
    python tools/bench_methods.py --plain [--rounds 15]

A network where arithmetic dominates: then time follows the MACs, and a rule that takes more than 1.2 times its ledger's share wastes
something. Against plain PyTorch what counts is the time beside the arithmetic, so there the networks get small.
One run holds all rules: a round is one step of each, in turn (beside plain PyTorch a few, by the processor's time of this process), so
that all see the same machine; the figures are medians over rounds. A step is forward, loss, updates and SGD, on one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.models import MLP, ResNet8

BOUND = 1.2
WARM_UP = 2
PLAIN = "plain PyTorch"
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 4x2000, batch 128": (lambda: MLP(784, (2000,) * 4), (128, 784)),
    "ResNet-8, batch 64": (ResNet8, (64, 3, 32, 32)),
}
#: network, shape, steps in a round, and how much more than plain PyTorch backprop may take
BESIDE_PLAIN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, float]] = {
    "MLP 2000x2000, batch 128": (lambda: MLP(784, (2000,) * 2), (128, 784), 1, 1.05),
    "ResNet-8, batch 64": (ResNet8, (64, 3, 32, 32), 1, 1.05),
    "MLP 256x256, batch 128": (lambda: MLP(784, (256,) * 2), (128, 784), 20, 1.3),
    "MLP 256x256, batch 32": (lambda: MLP(784, (256,) * 2), (32, 784), 40, 1.3),
    "MLP 256x256, batch 8": (lambda: MLP(784, (256,) * 2), (8, 784), 40, 1.3),
}


def plain_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One training step without this library."""
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def beside_plain(net: nn.Module, shape: tuple[int, ...], steps: int, rounds: int) -> dict[str, float]:
    """Seconds of the processor for a plain step and for one of ``backprop``, by name."""
    x, y = torch.rand(shape), torch.arange(shape[0]) % 10
    plain = copy.deepcopy(net).train()
    ours = lf.rewrite(net, "backprop", x[:2]).train()
    optimizers = [torch.optim.SGD(m.parameters(), 1e-4, fused=True) for m in (plain, ours)]
    ways: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain_step(plain, optimizers[0], x, y),
        "backprop": lambda: one_step(ours, optimizers[1], x, y),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP + rounds):
        for name, step in ways.items():
            start = time.process_time()
            for _ in range(steps):
                step()
            times[name].append((time.process_time() - start) / steps)
    return {name: statistics.median(t[WARM_UP:]) for name, t in times.items()}


def one_step(model: lf.RewrittenModel, optimizer: torch.optim.Optimizer | None, x: Tensor, y: Tensor) -> float:
    """Seconds of one training step."""
    start = time.perf_counter()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def measure(net: nn.Module, shape: tuple[int, ...], rounds: int, names: list[str]) -> list[dict[str, float | str]]:
    """One row per rule that fits the network: MAC per step, both ratios to backprop, and their quotient; rules that do not fit are left
    out."""
    x, y = torch.rand(shape), torch.arange(shape[0]) % 10
    models, macs = {}, {}
    for name in names:
        try:
            model = lf.rewrite(copy.deepcopy(net), name, x[:2]).train()
        except lf.RewriteError as error:  # statistics on a network without batch norm
            print(f"{name} does not fit: {error}", file=sys.stderr)
            continue
        trained = [p for p in model.parameters() if p.requires_grad]
        models[name] = model, torch.optim.SGD(trained, 1e-4, fused=True) if trained else None
        macs[name] = step_cost(model, (x, y)).total_macs
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(WARM_UP + rounds):
        for name, (model, optimizer) in models.items():
            times[name].append(one_step(model, optimizer, x, y))
    medians = {name: statistics.median(t[WARM_UP:]) for name, t in times.items()}
    rows = []
    for name, seconds in medians.items():
        measured, ledger = seconds / medians["backprop"], macs[name] / macs["backprop"]
        rows.append(
            {"method": name, "seconds": seconds, "macs": macs[name], "measured": measured, "ledger": ledger, "quotient": measured / ledger}
        )
    return rows


def print_beside_plain(rounds: int) -> int:
    """Exit status: 0 if no ratio is above its bound."""
    table, within = Table("network", "plain, ms / step", "backprop", "ratio", "bound"), True
    for title, (make, shape, steps, bound) in BESIDE_PLAIN.items():
        seconds = beside_plain(make(), shape, steps, rounds)
        ratio = seconds["backprop"] / seconds[PLAIN]
        table.add_row(title, *(f"{s * 1e3:.2f}" for s in seconds.values()), f"{ratio:.3f}", f"{bound}")
        within = within and ratio <= bound
    Console(width=120).print(table)
    return 0 if within else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", default=list(lf.METHODS), choices=list(lf.METHODS), help="rules beside backprop")
    parser.add_argument("--net", choices=list(NETS), help="one network only")
    parser.add_argument("--plain", action="store_true", help="backprop beside plain PyTorch instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.plain:
        return print_beside_plain(options.rounds)
    results, names = {}, ["backprop", *(n for n in options.only if n != "backprop")]
    for title, (make, shape) in NETS.items():
        if options.net not in (None, title):
            continue
        results[title] = measure(make(), shape, options.rounds, names)
        table = Table("method", "ms / step", "million MAC / step", "measured", "ledger", f"quotient (bound {BOUND})", title=title)
        for r in results[title]:
            numbers = f"{r['seconds'] * 1e3:.1f}", f"{r['macs'] / 1e6:,.0f}", f"{r['measured']:.2f}", f"{r['ledger']:.2f}"
            table.add_row(r["method"], *numbers, f"{r['quotient']:.2f}")
        Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(r["quotient"] <= BOUND for rows in results.values() for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
