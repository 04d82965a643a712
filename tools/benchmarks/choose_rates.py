"""The learning rate of each row of a comparison, chosen on seeds and samples that its table does not contain.

    python tools/benchmarks/choose_rates.py -c recipes/compare_digits_drift.yaml --out runs/digits_rates
    python tools/benchmarks/choose_rates.py -c recipes/compare_resnet8_recovery.yaml --out runs/recovery_rates --labels 100 2000

Trains every row that learns at every rate on ``--seeds`` and measures on the validation part of the target; the mean accuracy over seeds
and drifts counts. Rows of one rule: at ``--rates``; the best is what the recipe should say. Rows in stages: stage by stage, those before
it at their best rate, at the rates that the stage lists, without a guard; what is chosen is written to ``rates.json`` by number of labels,
which the recipe's key ``rates`` names. Their stages without labels are guarded, as in the comparison. Run again to resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path

from torch import nn

from lightning_fwd.adaptation import Stage, adapt
from lightning_fwd.compare import Row, Scenario, compare, load_scenario
from lightning_fwd.compare.cells import Cell, Start, cells_of, label_free
from lightning_fwd.recipes import pretrain, quiet
from lightning_fwd.recipes.accuracy import accuracy

RATES, SAMPLES = (0.001, 0.003, 0.01, 0.03, 0.1), 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="of rows of one rule")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 100 101 102, of rows in stages 100")
    parser.add_argument("--drifts", nargs="+", help="e.g. noise=0.08 contrast=0.3 (default: the recipe's)")
    parser.add_argument("--labels", type=int, nargs="+", help="default: the recipe's")
    parser.add_argument("--rows", nargs="+", help="names of rows (default: all that learn)")
    parser.add_argument("--jobs", type=int, help="worker processes for rows of one rule (default: one per core)")
    options = parser.parse_args()
    given = {key: value for key in ("drifts", "labels") if (value := getattr(options, key))}
    scenario = dataclasses.replace(load_scenario(options.config, given), split="val", rates=None)
    rows = [row for row in scenario.all_rows() if not options.rows or row.name in options.rows]
    options.out.mkdir(parents=True, exist_ok=True)
    if single := [row for row in rows if row.method not in (None, "statistics")]:
        choose_single(single, scenario, options)
    if staged := [row for row in rows if learning(row)]:
        choose_staged(staged, scenario, options)


def choose_single(learning: list[Row], scenario: Scenario, options: argparse.Namespace) -> None:
    """Print the means and the best rate of each row."""
    rows = [dataclasses.replace(r, name=f"{r.name} @ {lr:g}", lr=lr, control=False) for r in learning for lr in options.rates]
    trial = dataclasses.replace(scenario, rows=rows, controls=False, seeds=options.seeds or [100, 101, 102])
    results = [line for cell in cells_of(trial, options.out) for line in compare(cell.scenario, cell.out, options.jobs)]
    width = max(len(row.name) for row in learning)
    print(" " * width, *(f"{lr:>8g}" for lr in options.rates), "  chosen")
    for row in learning:
        means = {lr: statistics.fmean(r.accuracy_adapted for r in results if r.method == f"{row.name} @ {lr:g}") for lr in options.rates}
        best = max(means, key=lambda lr: -math.inf if math.isnan(means[lr]) else means[lr])
        print(row.name.ljust(width), *("diverged" if math.isnan(m) else f"{m:8.1f}" for m in means.values()), f"  {best:g}")


def learning(row: Row) -> list[Stage]:
    """The stages from the first that learns."""
    stages = row.adaptation()
    return stages[len(label_free(stages)) :]


def choose_staged(rows: list[Row], scenario: Scenario, options: argparse.Namespace) -> None:
    """Write ``rates.json``, a row at a time; those that it holds are not chosen again."""
    file = options.out / "rates.json"
    rates: dict[str, dict[str, dict[str, float]]] = json.loads(file.read_text()) if file.exists() else {}
    cells = cells_of(dataclasses.replace(scenario, seeds=options.seeds or [100]), options.out)
    for labels in dict.fromkeys(cell.labels for cell in cells):
        worlds = [World(cell, seed) for cell in cells if cell.labels == labels for seed in cell.scenario.seeds]
        for row in rows:
            if row.name not in rates.setdefault(str(labels), {}):
                rates[str(labels)][row.name] = rates_of(row, worlds)
                file.write_text(json.dumps(rates, indent=1) + "\n")


class World:
    """One drift, number of labels and seed."""

    def __init__(self, cell: Cell, seed: int):
        self.cell, self.seed = cell, seed
        self.weights = cell.weights_file(seed)
        if not self.weights.exists():
            pretrain(cell.scenario, seed, cell.scenario.data_module(seed, "source"), self.weights)
        self.start = Start(cell, seed)
        self.samples = self.start.target.tensors("train")
        x, y = self.start.target.tensors("val")
        every = max(1, len(y) // SAMPLES)
        self.validation = x[::every], y[::every]

    def prepared(self, stages: list[Stage]) -> list[Stage]:
        return [stage.prepared(self.start.network(), self.start.source, self.weights) for stage in stages]

    def adapted(self, network: nn.Module, stage: Stage) -> nn.Module:
        return adapt(network, self.prepared([stage]), self.samples, held_back=0, seed=self.seed).network

    def validated(self, network: nn.Module) -> float:
        right = accuracy(network, *self.validation)
        return 0.0 if math.isnan(right) else right


def rates_of(row: Row, worlds: list[World]) -> dict[str, float]:
    """The best rate of each stage of a row, the stages before it having theirs."""
    first, best = label_free(row.adaptation()), dict[str, float]()
    states = [world.start.after(world.prepared(first), row.held_back).network for world in worlds]
    for stage in learning(row):
        after, means = dict[float, list[nn.Module]](), dict[float, float]()
        for lr in stage.lr if stage.learns else stage.lr[:1]:
            quiet(worlds[0].seed)
            fixed = dataclasses.replace(stage, lr=lr)
            after[lr] = [world.adapted(state, fixed) for state, world in zip(states, worlds, strict=True)]
            means[lr] = statistics.fmean(world.validated(network) for network, world in zip(after[lr], worlds, strict=True))
        chosen = max(means, key=lambda lr: means[lr])
        states = after[chosen]
        if stage.learns:
            best[stage.name] = chosen
            tried = ", ".join(f"{lr:g} {mean:.1f}" for lr, mean in means.items())
            print(f"{worlds[0].cell.labels} labels, {row.name}, {stage.name}: {tried}", flush=True)
    return best


if __name__ == "__main__":
    main()
