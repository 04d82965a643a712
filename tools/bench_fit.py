"""What each rule adds to a step of Lightning's own loop, on a net so small that the loop is all there is: digits, 64-64-10.

    python tools/bench_fit.py [--rounds 5] [--batch 32] [--only NAME ...] [--profile NAME]

A round is one fit of each, plain and by every rule, in turn; a fit's figure is the processor's time of this process per step, all epochs
but the first together, so that what else the machine runs does not count as the step's. The figures are medians over rounds, the extra is
over the plain fit of the same round.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import statistics
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.models import MLP

PLAIN = "plain"


class Digits(LightningModule):
    """Cross-entropy and SGD; nothing is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(64, (64,))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Clock(Callback):
    """What a step takes of the processor's time, all steps but the first epoch's together."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            self._begun = trainer.global_step, time.process_time()

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        steps, seconds = self._begun
        self.per_step = (time.process_time() - seconds) / (trainer.global_step - steps)


def fit(name: str, loader: DataLoader, epochs: int) -> float:
    """Seconds per step of a fit of its own."""
    torch.manual_seed(0)
    clock = Clock()
    strategy = "auto" if name == PLAIN else lf.ForwardOnlyStrategy(name, from_scratch=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=epochs, strategy=strategy, callbacks=[clock], **quiet)
    trainer.fit(Digits(), loader)
    return clock.per_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    rules = [name for name in lf.METHODS if name not in ("statistics", "alignment")]  # they need batch norm
    parser.add_argument("--only", nargs="+", default=rules, choices=rules)
    parser.add_argument("--profile", choices=rules, help="one fit of this rule instead, and where its time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    x, y = load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy(x).float() / 16, torch.from_numpy(y))
    loader = DataLoader(data, options.batch, shuffle=True, drop_last=True)
    if options.profile:
        with cProfile.Profile() as profile:
            fit(options.profile, loader, options.epochs)
        pstats.Stats(profile).sort_stats("cumtime").print_stats(140)
        return
    times: dict[str, list[float]] = {name: [] for name in (PLAIN, *options.only)}
    for _ in range(options.rounds):
        for name, seconds in times.items():
            seconds.append(fit(name, loader, options.epochs))
    table = Table("rule", "us / step", "extra us", "extra / plain", title=f"Lightning's step, digits 64-64-10, batch {options.batch}")
    for name, seconds in times.items():
        extra = [(own - plain) * 1e6 for own, plain in zip(seconds, times[PLAIN], strict=True)]
        share = statistics.median(own / plain - 1 for own, plain in zip(seconds, times[PLAIN], strict=True))
        table.add_row(name, f"{statistics.median(seconds) * 1e6:.0f}", f"{statistics.median(extra):.0f}", f"{share:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
