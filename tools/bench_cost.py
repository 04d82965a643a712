"""How fast pricing is, and how little the StepCost callback adds to a training step.

    python tools/bench_cost.py [--steps 200] [--json FILE]

The overhead is the ratio of medians of the same training steps with and without the callback, interleaved in one process. On a busy machine
that ratio scatters by more than the overhead, so the time in the callback's own hooks is held to the same bound. Pricing, which runs on one
thread, is held to its bound by its CPU time, what it takes on a machine that does nothing else; the time that passed is beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.callbacks import StepCost
from lightning_fwd.cost import step_cost
from lightning_fwd.models import ResNet8


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        out = width * 4
        sizes = ((channels_in, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in sizes)
        plain = stride == 1 and channels_in == out
        self.shortcut = nn.Identity() if plain else nn.Conv2d(channels_in, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norms[0](self.convs[0](x)))
        h = F.relu(self.norms[1](self.convs[1](h)))
        return F.relu(self.shortcut(x) + self.norms[2](self.convs[2](h)))


def resnet50(num_classes: int = 1000) -> nn.Sequential:
    """A network of ResNet-50's size: 16 bottleneck blocks, about 25.5 M parameters, input (B, 3, 224, 224)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1))
            channels = width * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ResNet8()

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Toggle(StepCost):
    """The callback on every other step, so that both kinds of step see the same machine; notes the time in its hooks."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx % 2:
            start = time.perf_counter()
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            self.times.append(time.perf_counter() - start)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx % 2:
            start = time.perf_counter()
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.times[-1] += time.perf_counter() - start

    def _print(self):
        pass


class StepTimes(L.Callback):
    """Wall time from the fetch of one batch to the next."""

    def __init__(self):
        self.times: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.start = time.perf_counter()


class Stop(L.Callback):
    def __init__(self, times: StepTimes):
        self.times = times

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.times.times.append(time.perf_counter() - self.times.start)


def overhead(steps: int, batch: int = 16) -> dict[str, float]:
    """Median seconds of a ResNet-8 training step without and with the callback, and of the callback's own hooks."""
    data = TensorDataset(torch.randn(batch * steps, 3, 32, 32), torch.arange(batch * steps) % 10)
    times, toggle = StepTimes(), Toggle()
    L.Trainer(
        max_epochs=1, callbacks=[times, toggle, Stop(times)], logger=False, accelerator="cpu", devices=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(Module(), DataLoader(data, batch))  # fmt: skip
    skip = 6  # the first ones warm up, and one of them prices
    without, with_callback = times.times[skip::2], times.times[skip + 1 :: 2]
    medians = statistics.median(without), statistics.median(with_callback)
    hooks = statistics.median(toggle.times[skip // 2 :])
    return {
        "without_s": medians[0], "with_s": medians[1], "ratio": medians[1] / medians[0],
        "hooks_s": hooks, "hooks_share": hooks / medians[0],
    }  # fmt: skip


def pricing_seconds(net: nn.Module, shape: tuple[int, ...], method: str) -> dict[str, float]:
    """Seconds to price a step: of the process, and of the clock on the wall."""
    model = lf.rewrite(net, method, torch.zeros(1, *shape))
    cpu, wall = time.process_time(), time.perf_counter()
    step_cost(model, torch.zeros(1, *shape))
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    result = {"callback": overhead(options.steps)}
    result["pricing_s"] = {
        f"{name}, {method}": pricing_seconds(make(), shape, method)
        for name, make, shape in (("ResNet-8", ResNet8, (3, 32, 32)), ("ResNet-50 size", resnet50, (3, 224, 224)))
        for method in ("backprop", "pepita", "local_loss")
    }
    table = Table("figure", "value", "bound")
    table.add_row("step with StepCost / without", f"{result['callback']['ratio']:.4f}", "1.01")
    table.add_row("StepCost's hooks / step without", f"{result['callback']['hooks_share']:.4f}", "0.01")
    for name, seconds in result["pricing_s"].items():
        value = f"{seconds['cpu']:.2f} s CPU, {seconds['wall']:.2f} s wall"
        table.add_row(f"pricing {name}", value, "30 s" if "50" in name else "3 s")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    held = (
        result["callback"]["ratio"] < 1.01
        and result["callback"]["hooks_share"] < 0.01
        and all(s["cpu"] < (30 if "50" in name else 3) for name, s in result["pricing_s"].items())
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
