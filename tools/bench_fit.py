"""What each rule adds to a step of Lightning's own loop, on a net so small that the loop is all there is: digits, 64-64-10.

    python tools/bench_fit.py [--rounds 5] [--batch 32] [--only NAME ...] [--profile NAME]

A round is one fit of each, plain, by every rule, and by the rule written by hand for this one net (``benchmarks/by_hand.py``), in turn; a
fit's figure is the processor's time of this process per step, the tenth percentile over all steps but the first epoch's: what else the
machine runs empties the caches of most. The figures are medians over rounds, the extra is over the plain fit of the same round.
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
from benchmarks.by_hand import BY_HAND, Plain
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf

PLAIN, HAND = "plain", " by hand"


class Clock(Callback):
    """What a step takes of the processor's time where nothing disturbs it: the tenth percentile over all but the first epoch's."""

    def on_fit_start(self, *_: Any) -> None:
        self._steps: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._begun = None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        now = time.process_time()
        if self._begun is not None and trainer.current_epoch:
            self._steps.append(now - self._begun)
        self._begun = now

    @property
    def per_step(self) -> float:
        return statistics.quantiles(self._steps, n=10)[0]


def fit(name: str, loader: DataLoader, epochs: int) -> float:
    """Seconds per step of a fit of its own."""
    torch.manual_seed(0)
    clock, by_hand = Clock(), name.endswith(HAND)
    strategy = "auto" if name == PLAIN or by_hand else lf.ForwardOnlyStrategy(name, from_scratch=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=epochs, strategy=strategy, callbacks=[clock], **quiet)
    trainer.fit(BY_HAND[name.removesuffix(HAND)]() if by_hand else Plain(), loader)
    return clock.per_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
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
    names = [PLAIN, *(row for name in options.only for row in (name, name + HAND) if not row.endswith(HAND) or name in BY_HAND)]
    times: dict[str, list[float]] = {name: [] for name in names}
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
