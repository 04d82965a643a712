"""A comparison over several drifts and numbers of labels for people: tables as Markdown, and one page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..cost.device import device_names, load_device
from ..plain_files import write_whole
from .costs import Price
from .folder import BACK, Result
from .html_report import Entry, boards, label_curves, plots, table, write_page
from .report import failed_in, mean_std, percent
from .run import Finished


@dataclass
class GridLine:
    """A row at one number of labels, accuracies as (mean, standard deviation) over seeds in percent, NaN where there is no result.

    Attributes:
        adapted: by drift. failed: by drift, why there is none. mean: over the drifts. drifted: the same mean, not adapted. source: before
            drift. lost: by drift, points below doing nothing, where it ends there. rolled_back: drift, seed and what the guard took back.
        runs: adaptations that the guard watched.
    """

    method: str
    control: bool
    price: Price
    adapted: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    mean: tuple[float, float] = (math.nan, math.nan)
    drifted: float = math.nan
    source: float = math.nan
    lost: dict[str, tuple[float, float]] = field(default_factory=dict)
    rolled_back: list[tuple[str, int, str]] = field(default_factory=list)
    runs: int = 0


def summarise_grid(finished: Finished) -> dict[int, list[GridLine]]:
    """Lines by number of labels, rows in the scenario's order."""
    scenario, found = finished.scenario, dict[int, list[GridLine]]()
    for labels in dict.fromkeys(cell.labels for cell in finished.cells):
        for row in scenario.all_rows():
            mine = {
                cell.drift: [r for r in results if r.method == row.name and r.seed in scenario.seeds]
                for cell, results in zip(finished.cells, finished.results, strict=True)
                if cell.labels == labels
            }
            line = _line(GridLine(row.name, row.control, finished.prices[row.name, labels]), mine)
            line.runs = sum(map(len, mine.values())) if row.stages else 0
            found.setdefault(labels, []).append(line)
    return found


def _line(line: GridLine, mine: dict[str, list[Result]]) -> GridLine:
    for drift, results in mine.items():
        line.adapted[drift] = mean_std([r.accuracy_adapted for r in results])
        if failed := failed_in(results):
            line.failed[drift] = failed
        below = [r.accuracy_adapted - r.accuracy_drifted for r in results]
        if statistics.fmean(below) < 0:
            line.lost[drift] = mean_std(below)
        line.rolled_back += [(drift, r.seed, r.note[at + len(BACK) :]) for r in results if (at := r.note.find(BACK)) >= 0]
    of_seeds = list(zip(*mine.values(), strict=True))
    line.mean = mean_std([statistics.fmean(r.accuracy_adapted for r in results) for results in of_seeds])
    line.drifted = statistics.fmean(r.accuracy_drifted for results in of_seeds for r in results)
    line.source = statistics.fmean(r.accuracy_source for results in of_seeds for r in results)
    return line


def _headers(finished: Finished) -> tuple[str, ...]:
    drifts = [cell.drift or "accuracy" for cell in finished.cells if cell.labels == finished.cells[0].labels]
    several = ["mean"] if len(drifts) > 1 else []
    devices = [load_device(name).name for name in finished.scenario.all_devices()]
    return "row", *several, *drifts, "RAM KiB", "kMAC", *(f"ms, {name}" for name in devices)


def _cells(line: GridLine) -> tuple[str, ...]:
    accuracies = [line.failed.get(drift) or percent(value) for drift, value in line.adapted.items()]
    several = [percent(line.mean)] if len(line.adapted) > 1 else []
    if not (p := line.price).macs_per_step:
        return line.method, *several, *accuracies, "", "", *("" for _ in p.on)
    return (
        line.method,
        *several,
        *accuracies,
        f"{p.peak_ram_bytes / 1024:.1f}",
        f"{p.macs_per_step / 1e3:,.0f}",
        *(f"{d.ms:.1f}" for d in p.on),
    )


def title_of_grid(finished: Finished) -> str:
    """Model, data, and how much of what."""
    scenario, cells = finished.scenario, finished.cells
    data = cells[0].scenario.data_module(scenario.seeds[0], "source").title
    drifts, labels = (list(dict.fromkeys(values)) for values in ((c.drift for c in cells), (c.labels for c in cells)))
    counted = f"{len(drifts)} drifts" if len(drifts) > 1 else drifts[0]
    return f"{scenario.model} on {data}, {', '.join(filter(None, [counted]))}; {', '.join(map(str, labels))} labelled target samples"


def _notes(finished: Finished, lines: Sequence[GridLine]) -> list[str]:
    scenario = finished.scenario
    over = f"mean ± standard deviation over {len(scenario.seeds)} seeds" if len(scenario.seeds) > 1 else "one seed"
    return [
        f"Accuracy of the adapted model on drifted data in %, {over}; mean: over the drifts. Before drift {lines[0].source:.1f}. "
        f"RAM, kMAC, ms: one training step on {scenario.cost_batch} sample(s), {scenario.width}, the optimizer's state included, of an "
        "adaptation in stages the dearest; ms: its operations on the device, estimated.",
        *(f"{line.method}: {line.price.note}" for line in lines if line.price.note),
    ]


def print_grid(finished: Finished, console: Console) -> None:
    """The tables in the terminal."""
    for labels, lines in summarise_grid(finished).items():
        shown = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, collapse_padding=True, title=f"{labels} labels", title_justify="left")
        for i, header in enumerate(_headers(finished)):
            shown.add_column(header, overflow="fold", justify="right" if i else "left")
        for line in lines:
            shown.add_row(*_cells(line), style="dim" if line.control else None)
        console.print(shown)


def write_grid_markdown(finished: Finished, file: Path) -> None:
    """A table for each number of labels: rows and drifts, the mean over the drifts, and the price."""
    headers, text = _headers(finished), [f"# {title_of_grid(finished)}", ""]
    for labels, lines in summarise_grid(finished).items():
        rows = [headers, ["---", *["---:"] * (len(headers) - 1)], *map(_cells, lines)]
        text += [f"## {labels} labels", "", *("| " + " | ".join(row) + " |" for row in rows), "", *_notes(finished, lines), ""]
    write_whole(file, "\n".join(text))


def write_grid_html(finished: Finished, file: Path, command: str) -> None:
    """The page: a table for each number of labels, curves over them, accuracy against RAM, operations, time and energy, what fits which
    board, what the guard rolled back, what ends below doing nothing, the command."""
    scenario, found = finished.scenario, summarise_grid(finished)
    sections = [_table(finished, labels, lines) for labels, lines in found.items()]
    if len(found) > 1:
        sections.append(_curves(found))
    sections.append("<h2>Mean accuracy in % against cost</h2>")
    entries = {labels: [_entry(i, line) for i, line in enumerate(lines, start=1)] for labels, lines in found.items()}
    for i, (labels, lines) in enumerate(found.items()):
        levels = {"before drift": lines[0].source, "after drift": lines[0].drifted}
        drawn = plots(entries[labels], levels, scenario.all_devices())
        sections.append(f"<details{'' if i else ' open'}><summary>{labels} labels</summary>{drawn}</details>")
    most = max(found)
    sections += [boards(entries[most], scenario.devices or device_names()), _rolled_back(found), _lost(found)]
    said = "".join(f"<p>{escape(note)}</p>" for note in _notes(finished, found[most]))
    write_page(title_of_grid(finished), [*sections, f"<h2>What the columns mean</h2>{said}"], command, file)


def _entry(number: int, line: GridLine) -> Entry:
    p = line.price
    return Entry(number, line.method, line.mean, line.control, p.macs_per_step, p.peak_ram_bytes, p.flash_bytes, p.on)


def _table(finished: Finished, labels: int, lines: Sequence[GridLine]) -> str:
    best = max((line.mean[0] for line in lines if not (line.control or math.isnan(line.mean[0]))), default=None)
    kinds = ["control" if line.control else "best" if line.mean[0] == best else "" for line in lines]
    rows = [(f"{i}  {row[0]}", *row[1:]) for i, row in enumerate(map(_cells, lines), start=1)]
    return f"<h2>{labels} labels</h2>" + table(_headers(finished), rows, kinds)


def _curves(found: dict[int, list[GridLine]]) -> str:
    of: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for labels, lines in found.items():
        for line in lines:
            means = {"mean over the drifts": line.mean} if len(line.adapted) > 1 else {}
            for drift, value in {**means, **line.adapted}.items():
                of.setdefault(drift or "accuracy", {}).setdefault(line.method, []).append((labels, *value))
    return label_curves(of)


def _rolled_back(found: dict[int, list[GridLine]]) -> str:
    guarded = [(labels, line) for labels, lines in found.items() for line in lines if line.runs]
    if not guarded:
        return ""
    counts = [(x.method, f"{n}", f"{len(x.rolled_back)} of {x.runs}") for n, x in guarded if x.rolled_back]
    each = [(x.method, f"{n}", drift, f"{seed}", what) for n, x in guarded for drift, seed, what in x.rolled_back]
    if not counts:
        return "<h2>What the guard rolled back</h2><p>Nothing.</p>"
    listed = table(("row", "labels", "drift", "seed", "stage (why)"), each)
    return (
        "<h2>What the guard rolled back</h2><p>Adaptations in which it took a stage back.</p>"
        f"{table(('row', 'labels', 'rolled back'), counts)}<details><summary>Each of them</summary>{listed}</details>"
    )


def _lost(found: dict[int, list[GridLine]]) -> str:
    rows = [
        (line.method, f"{labels}", drift, percent(points))
        for labels, lines in found.items() for line in lines for drift, points in line.lost.items()
    ]  # fmt: skip
    shown = table(("row", "labels", "drift", "points"), rows) if rows else "<p>None.</p>"
    return f"<h2>What ends below doing nothing</h2><p>Mean over seeds, on the test samples.</p>{shown}"
