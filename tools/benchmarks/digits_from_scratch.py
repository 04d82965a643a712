"""Digits from scratch by each learning rule, through ``lightning-fwd fit`` with the recipes as they stand: mean and spread over seeds.

    python tools/benchmarks/digits_from_scratch.py --out runs/digits_scratch

One line per recipe and seed in ``results.csv``, the table in ``summary.md``; finished fits are not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

import joblib

from lightning_fwd.recipes import worker_count

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = ("backprop", "local_loss", "forward_forward", "pepita", "direct_feedback", "frozen")


def fit(name: str, seed: int, out: Path) -> float:
    """Test accuracy in percent of one ``lightning-fwd fit``; its metrics stay in ``out/fits``."""
    metrics = out / "fits" / name / f"version_{seed}" / "metrics.csv"
    if (accuracy := _test_accuracy(metrics)) is None:
        command = [
            sys.executable, "-m", "lightning_fwd.cli.main", "fit", "-c", str(RECIPES / f"digits_{name}.yaml"), f"--seed_everything={seed}",
            "--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={out / 'fits'}",
            f"--trainer.logger.name={name}", f"--trainer.logger.version={seed}", "--trainer.enable_progress_bar=false",
        ]  # fmt: skip
        threads = {"OMP_NUM_THREADS": "1"}  # one fit per core
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **threads})
        accuracy = _test_accuracy(metrics)
    return accuracy


def _test_accuracy(metrics: Path) -> float | None:
    if not metrics.exists():
        return None
    with metrics.open(newline="") as file:
        found = [row["test/accuracy"] for row in csv.DictReader(file) if row.get("test/accuracy")]
    return 100 * float(found[-1]) if found else None


def run(out: Path, seeds: list[int], names: tuple[str, ...] = NAMES, jobs: int | None = None) -> dict[str, list[float]]:
    """Test accuracies in percent by recipe, one per seed."""
    jobs = worker_count(jobs)
    grid = [(name, seed) for name in names for seed in seeds]
    accuracies = joblib.Parallel(n_jobs=jobs)(joblib.delayed(fit)(name, seed, out) for name, seed in grid)
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["recipe", "seed", "test_accuracy"])
        writer.writerows((*cell, f"{value:.3f}") for cell, value in zip(grid, accuracies, strict=True))
    return {name: [a for (n, _), a in zip(grid, accuracies, strict=True) if n == name] for name in names}


def table(accuracies: dict[str, list[float]]) -> str:
    """Markdown: one line per recipe."""
    lines = ["| recipe | test accuracy [%] | seeds |", "|---|---:|---|"]
    for name, values in accuracies.items():
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        lines.append(f"| digits_{name} | {statistics.fmean(values):.2f}{spread} | {', '.join(f'{v:.2f}' for v in values)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, help="fits at a time (default: one per core)")
    options = parser.parse_args()
    text = table(run(options.out, options.seeds, jobs=options.jobs))
    print(text)
    (options.out / "summary.md").write_text(text)


if __name__ == "__main__":
    main()
