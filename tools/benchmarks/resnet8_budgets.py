"""Accuracy won back against training memory: one comparison recipe under several drifts, as one table and plot.

    LIGHTNING_FWD_DATA=... python tools/benchmarks/resnet8_budgets.py --out runs/resnet8_budgets

Interrupted runs go on where they stopped; ``--no-train`` makes the table of what is there (rows run under most of the drifts). Peak RAM and
MAC are asked from the ledger anew, for the optimizer that trains (its momentum takes RAM), in fp32 and int8. Writes ``budgets.md``,
``budgets.png`` and per drift what ``lightning-fwd compare`` writes.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from lightning_fwd.compare import Row, Scenario, compare, load_scenario
from lightning_fwd.compare.folder import open_folder
from lightning_fwd.cost import step_cost
from lightning_fwd.models import build
from lightning_fwd.strict_yaml import load_yaml

RECIPE = Path(__file__).parents[2] / "recipes" / "compare_resnet8_budgets.yaml"
DRIFTS = ("noise=0.08", "contrast=0.3", "blur=3")
WIDTHS = ("fp32", "int8")


@dataclass
class Entry:
    """One row of the table: accuracies in percent by drift, peak RAM in bytes by width (None: nothing is trained), MAC of one step."""

    name: str
    control: bool
    accuracy: dict[str, list[float]]  # one value per seed
    ram: dict[str, int] | None
    macs: int

    @property
    def means(self) -> list[float]:
        """Mean over the drifts, seed by seed; empty where a drift has not been run."""
        return [statistics.fmean(values) for values in zip(*self.accuracy.values(), strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--drifts", nargs="+", default=DRIFTS)
    parser.add_argument("--seeds", nargs="+", type=int, help="in place of the recipe's: the table shows mean ± standard deviation")
    parser.add_argument("--rows", nargs="+", help="of the recipe's rows only these (beside the controls)")
    parser.add_argument("--no-train", action="store_true", help="only what has been run")
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core)")
    options = parser.parse_args()
    results, scenario = {}, None
    for drift in options.drifts:
        recipe = load_yaml(options.recipe.read_text())
        changes = {"data": {**recipe["data"], "drift": drift}}
        if options.seeds:
            changes["seeds"] = options.seeds
        if options.rows:
            changes["rows"] = chosen_rows(recipe["rows"], options.rows)
        scenario = load_scenario(options.recipe, changes)
        out = options.out / drift.replace("=", "_")
        results[drift] = open_folder(scenario, out) if options.no_train else compare(scenario, out, options.jobs)
    entries = []
    for row in scenario.all_rows():
        mine = {drift: sorted((r for r in found if r.method == row.name), key=lambda r: r.seed) for drift, found in results.items()}
        accuracy = {drift: [r.accuracy_adapted for r in found] for drift, found in mine.items()}
        if row.name == "backprop" or sum(map(bool, accuracy.values())) > len(accuracy) / 2:
            entries.append(Entry(row.name, row.control, accuracy, *price(scenario, row)))
    table = write_table(entries)
    print(table)
    (options.out / "budgets.md").write_text(table)
    plot(entries, options.out / "budgets.png")


def price(scenario: Scenario, row: Row) -> tuple[dict[str, int] | None, int]:
    """Peak RAM by width and MAC of one step on one sample, as the ledger has it now."""
    method = row.build()
    if method is None:
        return None, 0
    net = row.frozen(build(scenario.model, **scenario.model_args)).eval()
    batch = torch.zeros(1, *net.input_shape), torch.zeros(1, dtype=torch.int64)
    costs = {w: step_cost(net, batch, width=w, method=method, momentum=scenario.adapt.momentum) for w in WIDTHS}
    return {w: cost.peak_ram_bytes for w, cost in costs.items()}, costs["fp32"].total_macs


def write_table(entries: list[Entry]) -> str:
    full = next((e.ram for e in entries if e.name == "backprop"), None)
    drifts = list(entries[0].accuracy)
    head = ["method", *(f"RAM {w}, KiB (of full)" for w in WIDTHS), "kMAC", *drifts, "mean"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for e in entries:
        ram = [f"{e.ram[w] / 1024:.0f}" + (f" ({e.ram[w] / full[w]:.0%})" if full else "") for w in WIDTHS] if e.ram else ["", ""]
        accuracies = [percent(values) for values in [*(e.accuracy[d] for d in drifts), e.means]]
        lines.append("| " + " | ".join([e.name, *ram, f"{e.macs / 1e3:,.0f}" if e.ram else "", *accuracies]) + " |")
    return "\n".join(lines) + "\n"


def percent(values: list[float]) -> str:
    """Mean over seeds, with the standard deviation where there are several."""
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def chosen_rows(rows: list[dict], names: list[str]) -> list[dict]:
    unknown = sorted(set(names) - {row["name"] for row in rows})
    if unknown:
        raise SystemExit(f"no row {', '.join(unknown)} in the recipe; it has: {', '.join(row['name'] for row in rows)}")
    return [row for row in rows if row["name"] in names]


def plot(entries: list[Entry], file: Path) -> None:
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    for axes, width in zip(figure.subplots(1, 2, sharey=True), WIDTHS, strict=True):
        for half in (e.ram[width] / 2048 for e in entries if e.name == "backprop"):
            axes.axvline(half, color="0.7", linestyle=":")
            axes.text(half, 0.02, " half of full backprop's peak", color="0.5", fontsize=8, transform=axes.get_xaxis_transform())
        for e in entries:
            if e.ram and e.means:
                x, y = e.ram[width] / 1024, statistics.fmean(e.means)
                axes.plot(x, y, "s" if e.control else "o", color="0.5" if e.control else "tab:blue")
                axes.annotate(e.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel=f"peak RAM of one training step, {width} [KiB]", xscale="log")
        axes.grid(alpha=0.3)
        if width == WIDTHS[0]:
            axes.set_ylabel("accuracy after adaptation, mean over drifts [%]")
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
