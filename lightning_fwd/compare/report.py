"""A comparison for people: the table, in the terminal and as Markdown, and the plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..graph.errors import LightningFwdError
from .run import Result
from .scenario import Scenario


@dataclass
class Line:
    """One method over all seeds; accuracies as (mean, standard deviation) in percent."""

    method: str
    control: bool
    source: tuple[float, float]
    drifted: tuple[float, float]
    adapted: tuple[float, float]
    source_after: tuple[float, float]
    macs: int
    ram: int
    flash: int
    device_ms: float
    host_ms: float
    note: str


def summarise(scenario: Scenario, results: Sequence[Result]) -> list[Line]:
    """Mean and sample standard deviation over seeds, in the order of the scenario's rows."""
    lines = []
    for row in scenario.all_rows():
        mine = [r for r in results if r.method == row.name and r.seed in scenario.seeds]
        if mine:
            columns = {name: [getattr(r, name) for r in mine] for name in vars(mine[0])}
            lines.append(Line(
                row.name, row.control,
                *(_mean_std(columns[f"accuracy_{c}"]) for c in ("source", "drifted", "adapted", "source_after")),
                mine[0].macs_per_step, mine[0].peak_ram_bytes, mine[0].flash_bytes, mine[0].device_ms_per_step,
                1e3 * statistics.median(columns["seconds_per_step"]), mine[0].note,
            ))  # fmt: skip
    return lines


def _mean_std(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


_HEADERS = (
    "method",
    "source %",
    "drifted %",
    "adapted %",
    "source after %",
    "MAC/step",
    "RAM",
    "Flash",
    "ms/step on {device}",
)


def _cells(line: Line) -> tuple[str, ...]:
    if math.isnan(line.adapted[0]):
        return (line.method, _pct(line.source), _pct(line.drifted), "n/a", "", "", "", "", line.note)
    trains = line.macs > 0
    return (
        line.method, _pct(line.source), _pct(line.drifted), _pct(line.adapted), _pct(line.source_after),
        f"{line.macs:,}" if trains else "-", _kib(line.ram) if trains else "-", _kib(line.flash) if trains else "-",
        f"{line.device_ms:.2f}" if trains else "-",
    )  # fmt: skip


def _pct(value: tuple[float, float]) -> str:
    return f"{value[0]:.1f} ± {value[1]:.1f}"


def _kib(count: int) -> str:
    return f"{count / 1024:.1f} KiB"


def print_table(scenario: Scenario, lines: Sequence[Line], console: Console) -> None:
    table = Table(title=_title(scenario))
    for i, header in enumerate(_HEADERS):
        table.add_column(header.format(device=scenario.device), justify="right" if i else "left")
    best = max((line.adapted[0] for line in lines if not line.control), default=None)
    for line in lines:
        table.add_row(*_cells(line), style="dim" if line.control else "bold" if line.adapted[0] == best else None)
    console.print(table)


def _title(scenario: Scenario) -> str:
    data = scenario.data_module(scenario.seeds[0], "target")
    return (
        f"{scenario.model} on {data.title}: {scenario.adapt_samples} labelled target samples, {len(scenario.seeds)} seeds; "
        f"cost of one step on {scenario.cost_batch} sample(s) at {scenario.width}"
    )


def write_markdown(scenario: Scenario, lines: Sequence[Line], file: Path) -> None:
    headers = [h.format(device=scenario.device) for h in _HEADERS]
    rows = [headers, ["---", *["---:"] * (len(headers) - 1)], *map(_cells, lines)]
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    file.write_text(f"# {_title(scenario)}\n\nMean ± standard deviation over seeds. Grey controls first.\n\n{body}\n")


def plot_pareto(scenario: Scenario, lines: Sequence[Line], file: Path) -> None:
    """Adapted accuracy against peak RAM and against operations; lines mark the model before drift and before adaptation.

    Raises:
        LightningFwdError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LightningFwdError(
            f"{file.name} was not drawn", "matplotlib is not installed", "pip install lightning_fwd[plots]"
        ) from error
    figure = Figure(figsize=(12, 5), layout="constrained")
    shown = [line for line in lines if line.macs > 0 and not math.isnan(line.adapted[0])]
    for axes, x_of, label in zip(
        figure.subplots(1, 2, sharey=True),
        (lambda line: line.ram / 1024, lambda line: line.macs / 1e6),
        ("peak RAM of one step [KiB]", "operations of one step [million MAC]"),
        strict=True,
    ):
        for line in shown:
            style = {"color": "0.5", "marker": "s"} if line.control else {"marker": "o"}
            axes.errorbar(x_of(line), line.adapted[0], yerr=line.adapted[1], capsize=3, linestyle="none", **style)
            axes.annotate(
                line.method, (x_of(line), line.adapted[0]), xytext=(5, 5), textcoords="offset points", fontsize=8
            )
        if lines:
            axes.axhline(lines[0].source[0], color="0.7", linestyle=":", label="source, before drift")
            axes.axhline(lines[0].drifted[0], color="tab:red", linestyle=":", label="target, not adapted")
        axes.set(xlabel=label, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on the target after adaptation [%]")
    figure.axes[1].legend(fontsize=8, loc="lower right")
    figure.suptitle(_title(scenario), fontsize=10)
    figure.savefig(file, dpi=130)
