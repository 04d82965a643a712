"""Accuracy won back against training memory: one comparison recipe under several drifts, as one table and plot.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/resnet8_budgets.py --out runs/resnet8_budgets

Interrupted runs go on where they stopped. Writes ``budgets.md``, ``budgets.png`` and per drift what ``lightning-fwd compare`` writes.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from lightning_fwd.compare import compare, load_scenario, summarise
from lightning_fwd.compare.report import Line

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_resnet8_budgets.yaml"
DRIFTS = ("noise=0.08", "contrast=0.3", "blur=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--drifts", nargs="+", default=DRIFTS)
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), default="fp32")
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core)")
    options = parser.parse_args()
    by_drift: dict[str, list[Line]] = {}
    for drift in options.drifts:
        data = yaml.safe_load(options.recipe.read_text())["data"]
        scenario = load_scenario(options.recipe, {"data": {**data, "drift": drift}, "width": options.width})
        by_drift[drift] = summarise(scenario, compare(scenario, options.out / drift.replace("=", "_"), options.jobs))
    rows = list(zip(*by_drift.values(), strict=True))
    table = _table(rows, list(by_drift))
    print(table)
    (options.out / "budgets.md").write_text(table)
    _plot(rows, options.out / "budgets.png")


def _mean(row: tuple[Line, ...]) -> float:
    return statistics.fmean(line.adapted[0] for line in row)


def _table(rows: list[tuple[Line, ...]], drifts: list[str]) -> str:
    full = next(row[0].ram for row in rows if row[0].method == "backprop")
    head = ["method", "peak RAM", "of backprop's", "MAC/step", *drifts, "mean"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        first = row[0]
        cost = [f"{first.ram:,} B", f"{first.ram / full:.0%}", f"{first.macs:,}"] if first.macs else ["", "", ""]
        lines.append("| " + " | ".join([first.method, *cost, *(f"{x.adapted[0]:.1f}" for x in row), f"{_mean(row):.1f}"]) + " |")
    return "\n".join(lines) + "\n"


def _plot(rows: list[tuple[Line, ...]], file: Path) -> None:
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row[0].macs:
            x, y = row[0].ram / 1024, _mean(row)
            axes.plot(x, y, "s" if row[0].control else "o", color="0.5" if row[0].control else "tab:blue")
            axes.annotate(row[0].method, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="peak RAM of one training step [KiB]", ylabel="accuracy after adaptation, mean over drifts [%]", xscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
