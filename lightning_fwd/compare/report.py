"""A comparison for people: the table, in the terminal and as Markdown, and the plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import LightningFwdError
from ..plain_files import naming, write_whole
from .costs import OnDevice, Price
from .folder import BACK, Result
from .scenario import Scenario


@dataclass
class Line:
    """One method over all seeds; accuracies as (mean, standard deviation) in percent, ``won_back`` in percent of what the drift took.

    Of one seed the deviation is NaN. A row that has no result in some seed has NaN for its means, and ``failed`` says why: "diverged", with
    the seeds if not in all, or "n/a" where the rule never made a step. ``rolled_back``: per seed, what the guard of an adaptation in stages
    took back. ``on``: the price on each device.
    """

    method: str
    control: bool
    source: tuple[float, float]
    drifted: tuple[float, float]
    adapted: tuple[float, float]
    won_back: tuple[float, float]
    source_after: tuple[float, float]
    macs: int
    ram: int
    flash: int
    device_ms: float
    host_ms: float
    note: str
    failed: str = ""
    guarded: bool = False
    rolled_back: tuple[str, ...] = ()
    on: tuple[OnDevice, ...] = ()


def summarise(scenario: Scenario, results: Sequence[Result], prices: Mapping[tuple[str, int], Price] | None = None) -> list[Line]:
    """Mean and sample standard deviation over seeds, in the order of the scenario's rows.

    Args:
        prices: by row and number of labels; without them nothing but the time on the scenario's one device is known.
    """
    lines = []
    for row in scenario.all_rows():
        mine = [r for r in results if r.method == row.name and r.seed in scenario.seeds]
        if mine:
            price = (prices or {}).get((row.name, scenario.adapt_samples))
            columns = {name: [getattr(r, name) for r in mine] for name in vars(mine[0])}
            lines.append(Line(
                row.name, row.control,
                *(mean_std(columns[f"accuracy_{c}"]) for c in ("source", "drifted", "adapted")),
                mean_std([_won_back(r) for r in mine]), mean_std(columns["accuracy_source_after"]),
                mine[0].macs_per_step, mine[0].peak_ram_bytes, mine[0].flash_bytes, mine[0].device_ms_per_step,
                1e3 * statistics.median(columns["seconds_per_step"]), next((r.note for r in mine if r.note), ""), failed_in(mine),
                bool(row.stages), tuple(f"seed {r.seed}: {r.note[at + len(BACK):]}" for r in mine if (at := r.note.find(BACK)) >= 0),
                price.on if price else tuple(OnDevice(d, mine[0].device_ms_per_step if not i else math.nan, math.nan)
                                             for i, d in enumerate(scenario.all_devices())),
            ))  # fmt: skip
    return lines


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """NaN where one is missing."""
    if any(map(math.isnan, values)):  # a mean over the seeds that did not diverge would look better than the rule is
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def failed_in(results: Sequence[Result]) -> str:
    """Why a row has no result in some seed: "n/a" where it never made a step, or that it diverged; else nothing."""
    without = [r for r in results if math.isnan(r.accuracy_adapted)]
    if not without:
        return ""
    if not any(r.steps or "diverged" in r.note for r in results):
        return "n/a"
    return "diverged" if len(without) == len(results) else f"diverged in {len(without)} of {len(results)}"


def _won_back(result: Result) -> float:
    lost = result.accuracy_source - result.accuracy_drifted
    return 100.0 * (result.accuracy_adapted - result.accuracy_drifted) / lost if lost else float("nan")


HEADERS = ("method", "adapted", "won back", "on source", "kMAC", "RAM KiB", "Flash KiB", "ms")


def cells(line: Line) -> tuple[str, ...]:
    if line.failed:
        return (line.method, line.failed, *[""] * (len(HEADERS) - 2))
    accuracies = line.method, percent(line.adapted), percent(line.won_back, 0), percent(line.source_after)
    if line.macs == 0:
        return (*accuracies, "", "", "", "")
    cost = f"{line.macs / 1e3:,.0f}", f"{line.ram / 1024:.1f}", f"{line.flash / 1024:.1f}", f"{line.device_ms:.1f}"
    return (*accuracies, *cost)


def notes(scenario: Scenario, lines: Sequence[Line]) -> list[str]:
    """What the columns mean, and which rows have no figure and why."""
    over = f"mean ± standard deviation over {len(scenario.seeds)} seeds" if len(scenario.seeds) > 1 else "one seed"
    before = f"Before drift {percent(lines[0].source)}, after drift {percent(lines[0].drifted)}. " if lines else ""
    return [
        f"Accuracy of the adapted model on drifted data in %, {over}. {before}"
        "won back: % of what the drift took; on source: the adapted model on data without drift. "
        f"kMAC, RAM, Flash, ms: one training step on {scenario.cost_batch} sample(s), {scenario.width}, the optimizer's state included; "
        f"ms: its operations on {scenario.device}, estimated.",
        *_after_statistics(scenario),
        *(f"{line.method}: {line.note}" for line in lines if line.note),
    ]


def _after_statistics(scenario: Scenario) -> list[str]:
    learning = [row for row in scenario.all_rows() if row.method not in (None, "statistics")]
    first = [row.name for row in learning if row.after_statistics]
    who = "every row that learns" if len(first) == len(learning) else ", ".join(first)
    return [f"Batch-norm statistics are recomputed on the same samples first in: {who}."] if first else []


def percent(value: tuple[float, float], digits: int = 1) -> str:
    """Mean ± deviation, as far as there are any."""
    mean, std = (f"{figure:.{digits}f}" for figure in value)
    return "" if math.isnan(value[0]) else mean if math.isnan(value[1]) else f"{mean}±{std}"


def print_table(scenario: Scenario, lines: Sequence[Line], console: Console) -> None:
    """The table in the terminal: controls dim, the best rule bold."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, collapse_padding=True)
    table.add_column(HEADERS[0], overflow="fold")  # in a narrow terminal names wrap, and no figure is cut
    for header in HEADERS[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    best = max((line.adapted[0] for line in lines if not (line.control or math.isnan(line.adapted[0]))), default=None)
    for line in lines:
        table.add_row(*cells(line), style="dim" if line.control else "bold" if line.adapted[0] == best else None)
    console.print(title_of(scenario), style="italic", highlight=False, markup=False)
    console.print(table)
    for note in notes(scenario, lines):
        console.print(note, highlight=False, markup=False)


def title_of(scenario: Scenario) -> str:
    data = scenario.data_module(scenario.seeds[0], "target")
    return f"{scenario.model} on {data.title}, {scenario.adapt_samples} labelled target samples"


def write_markdown(scenario: Scenario, lines: Sequence[Line], file: Path) -> None:
    """The table as Markdown."""
    rows = [HEADERS, ["---", *["---:"] * (len(HEADERS) - 1)], *map(cells, lines)]
    body = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    write_whole(file, f"# {title_of(scenario)}\n\n{body}\n\n" + "\n".join(notes(scenario, lines)) + "\n")


def plot_pareto(scenario: Scenario, lines: Sequence[Line], file: Path) -> None:
    """Adapted accuracy against peak RAM and against operations; lines mark the model before drift and before adaptation.

    Raises:
        LightningFwdError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LightningFwdError(f"{file.name} was not drawn", "matplotlib is not installed", "pip install lightning_fwd[plots]") from error
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(12, 5), layout="constrained")
    shown = [line for line in lines if line.macs > 0 and not math.isnan(line.adapted[0])]
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x_of, label in (
        (left, lambda line: line.ram / 1024, "peak RAM of one step [KiB]"),
        (right, lambda line: line.macs / 1e3, "operations of one step [kMAC]"),
    ):
        markers = {True: iter("sPXDv^<>"), False: iter("o*hdp8H" * len(shown))}
        colors = iter(colormaps["tab10"].colors * len(shown))
        for line in shown:
            color = "0.55" if line.control else next(colors)
            # hollow, of falling size: rows that end at the same place stay apart
            size = 11 - 4 * shown.index(line) / max(1, len(shown) - 1)
            point = {
                "marker": next(markers[line.control]),
                "color": color,
                "markersize": size,
                "markerfacecolor": "none",
                "markeredgewidth": 1.5,
            }
            axes.errorbar(
                x_of(line),
                line.adapted[0],
                yerr=line.adapted[1],
                capsize=3,
                linestyle="none",
                label=line.method,
                **point,
            )
        if lines:
            axes.axhline(lines[0].source[0], color="0.7", linestyle=":", label="before drift")
            axes.axhline(lines[0].drifted[0], color="tab:red", linestyle=":", label="after drift, not adapted")
        axes.set(xlabel=label, xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
    left.set_ylabel("accuracy on the target after adaptation [%]")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9)
    figure.suptitle(title_of(scenario), fontsize=11)
    with naming(file):
        figure.savefig(file, dpi=130)
