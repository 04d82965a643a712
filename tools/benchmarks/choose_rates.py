"""The learning rate of each row of a comparison, chosen on seeds and samples that its table does not contain.

    python tools/benchmarks/choose_rates.py -c recipes/compare_digits_drift.yaml --out runs/digits_rates

Runs every row at every rate on ``--seeds``, measures on the validation part of the target, prints the mean accuracies; the best rate of
each row is what the recipe should say. With ``--drifts`` the mean is over these in place of the recipe's one drift. Run again to resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from pathlib import Path

from lightning_fwd.compare import compare, load_scenario

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--drifts", nargs="+", help="e.g. noise=0.08 contrast=0.3 (default: the recipe's)")
    parser.add_argument("--rows", nargs="+", help="names of rows (default: all that learn)")
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core)")
    options = parser.parse_args()
    scenario = load_scenario(options.config)
    learning = [r for r in scenario.all_rows() if r.method not in (None, "statistics") and (not options.rows or r.name in options.rows)]
    rows = [dataclasses.replace(r, name=f"{r.name} @ {lr:g}", lr=lr, control=False) for r in learning for lr in options.rates]
    trial = dataclasses.replace(scenario, rows=rows, controls=False, seeds=options.seeds, split="val")
    results = []
    for drift in options.drifts or [None]:
        data = {**trial.data, "drift": drift} if drift else trial.data
        out = options.out / drift.replace("=", "_") if drift else options.out
        results += compare(dataclasses.replace(trial, data=data), out, options.jobs)
    width = max(len(row.name) for row in learning)
    print(" " * width, *(f"{lr:>8g}" for lr in options.rates), "  chosen")
    for row in learning:
        means = {lr: statistics.fmean(r.accuracy_adapted for r in results if r.method == f"{row.name} @ {lr:g}") for lr in options.rates}
        best = max(means, key=lambda lr: -math.inf if math.isnan(means[lr]) else means[lr])
        print(row.name.ljust(width), *("diverged" if math.isnan(m) else f"{m:8.1f}" for m in means.values()), f"  {best:g}")


if __name__ == "__main__":
    main()
