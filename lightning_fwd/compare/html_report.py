"""A comparison as one page: nothing is loaded from elsewhere, it fits a phone and follows the reader's light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..cost.device import device_names, load_device
from .costs import OnDevice
from .report import HEADERS, Line, cells, notes, title_of
from .scenario import Scenario
from .svg import Point, curves, scatter

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--soft:#667;--rule:#d8dce2;--rule-fill:#0b6bcb;--warn:#b3261e;--good:#1a7f37}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e6e8ea;--soft:#9aa3ad;--rule:#353b42;--rule-fill:#5aa9f5;--warn:#ff8a80;
--good:#6fd08c}}*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.35rem}h2{font-size:1.1rem;margin-top:2rem}p,li{max-width:46rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th{position:sticky;top:0;background:var(--paper)}.name{text-align:left;white-space:normal;min-width:8rem}
figure{margin:0}tr.control{color:var(--soft)}tr.best{font-weight:600}
.no{color:var(--warn)}.yes{color:var(--good)}pre{overflow-x:auto;padding:.6rem;border:1px solid var(--rule);border-radius:6px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--soft)}
svg>text{paint-order:stroke;stroke:var(--paper);stroke-width:3px}svg path{fill:none;stroke:var(--soft)}
svg .grid{stroke:var(--rule)}svg .front{stroke:var(--rule-fill);stroke-dasharray:5 4}svg .level{stroke-dasharray:2 3}
svg .limit{stroke:var(--warn);stroke-width:2}svg g circle{stroke:var(--paper);fill:var(--soft)}svg g.rule circle{fill:var(--rule-fill)}
svg path.rule{stroke:var(--rule-fill)}svg g.lost circle{fill:var(--warn)}svg g text{fill:var(--paper);font-weight:600}
svg .line path{stroke-width:1.6}svg .c1 path{stroke:#0b6bcb}svg .c1 circle{fill:#0b6bcb}svg .c2 path{stroke:#c2570c}
svg .c2 circle{fill:#c2570c}svg .c3 path{stroke:#1a8f57}svg .c3 circle{fill:#1a8f57}svg .c4 path{stroke:#a03bb5}
svg .c4 circle{fill:#a03bb5}svg .c5 path{stroke:#a8860b}svg .c5 circle{fill:#a8860b}svg .c0 path{stroke:#7a818a}
svg .c0 circle{fill:#7a818a}
"""


def write_html(scenario: Scenario, lines: Sequence[Line], file: Path, command: str) -> None:
    """The page of one comparison: the table, accuracy against RAM, operations and time, what fits which board, what was rolled back, the
    command."""
    entries = _entries(lines)
    levels = {"before drift": lines[0].source[0], "after drift": lines[0].drifted[0]} if lines else {}
    drawn = plots(entries, levels, scenario.all_devices())
    sections = [
        _table(lines), f"<h2>Accuracy in % against cost</h2>{drawn}" if drawn else "", boards(entries, scenario.devices or device_names()),
        _rolled_back(lines), _said(scenario, lines),
    ]  # fmt: skip
    write_page(title_of(scenario), sections, command, file)


def write_page(title: str, sections: Sequence[str], command: str, file: Path) -> None:
    """A page of ready-made sections, with the command that made it."""
    body = "".join(sections) + f"<h2>Made by</h2><pre>{escape(command)}</pre>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
    page = f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n'
    file.write_text(page, encoding="utf-8")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str] = ()) -> str:
    """Rows of plain text; the first column and, if it is a number, the second one are names. ``kinds``: a class for each row."""
    head = "".join(f'<th class="{"name" if i == 0 else ""}">{escape(h)}</th>' for i, h in enumerate(headers))
    body = []
    for i, row in enumerate(rows):
        told = "".join(f'<td class="{"name" if j == 0 else ""}">{escape(cell)}</td>' for j, cell in enumerate(row))
        body.append(f'<tr class="{kinds[i] if kinds else ""}">{told}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def label_curves(of: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]]) -> str:
    """Accuracy over the number of labels: a plot for each key (a drift, or their mean), a curve for each row: ``(labels, percent,
    deviation)``."""
    names = list(dict.fromkeys(name for lines in of.values() for name in lines))
    plots = "".join(
        f"<figure><figcaption>{escape(k)}</figcaption>{curves({n: v.get(n, []) for n in names}, 'labels')}</figure>" for k, v in of.items()
    )
    legend = "".join(f"<li>{escape(name)}</li>" for name in names)
    return f'<h2>Accuracy in % over the number of labels</h2><ol>{legend}</ol><div class="plots">{plots}</div>'


def _table(lines: Sequence[Line]) -> str:
    best = max((line.adapted[0] for line in lines if not (line.control or math.isnan(line.adapted[0]))), default=None)
    kinds = ["control" if line.control else "best" if line.adapted[0] == best else "" for line in lines]
    rows = [(f"{i}  {row[0]}", *row[1:]) for i, row in enumerate(map(cells, lines), start=1)]
    return table(HEADERS, rows, kinds)


@dataclass(frozen=True)
class Entry:
    """A row of a table in plots and among boards: its number there, its accuracy with deviation, and its price."""

    number: int
    name: str
    accuracy: tuple[float, float]
    control: bool
    macs: int
    ram: int
    flash: int
    on: Sequence[OnDevice]


def _entries(lines: Sequence[Line]) -> list[Entry]:
    return [Entry(i, x.method, x.adapted, x.control, x.macs, x.ram, x.flash, x.on) for i, x in enumerate(lines, start=1)]


def plots(entries: Sequence[Entry], levels: Mapping[str, float], devices: Sequence[str]) -> str:
    """Accuracy against RAM with each device's limit, operations, and each device's time and energy.

    Args:
        levels: lines across each plot, in percent.
    """
    priced = [entry for entry in entries if entry.macs > 0]
    if not priced:
        return ""
    boards = [load_device(name) for name in devices]
    limits = [(b.sram_bytes.value / 1024, f"{b.name}: {b.sram_bytes.value / 1024:,.0f} KiB") for b in boards]
    axes: list[tuple[str, Callable[[Entry], float], list[tuple[float, str]]]] = [
        ("peak RAM, KiB", lambda entry: entry.ram / 1024, limits),
        ("operations of one step, kMAC", lambda entry: entry.macs / 1e3, []),
    ]
    for i, board in enumerate(boards):
        axes.append((f"time of one step on {board.name}, ms", lambda entry, i=i: entry.on[i].ms, []))
        axes.append((f"energy of one step on {board.name}, µJ", lambda entry, i=i: entry.on[i].microjoules, []))
    drawn = []
    for label, cost, bounds in axes:
        points = [Point(entry.number, entry.name, cost(entry), *entry.accuracy, entry.control) for entry in priced if cost(entry) > 0]
        if points:
            drawn.append(scatter(points, label, levels, bounds))
    said = "<p>Numbers as in the table. Broken line: what nothing cheaper beats. Grey: controls. Red: no result, or what a board has.</p>"
    return f'{said}<div class="plots">{"".join(drawn)}</div>'


def boards(entries: Sequence[Entry], devices: Sequence[str]) -> str:
    """What fits which board, and how much is missing."""
    priced, known = [entry for entry in entries if entry.macs > 0], [load_device(name) for name in devices]
    if not priced:
        return ""
    rows = []
    for entry in priced:
        lacks = [max(entry.ram - int(b.sram_bytes.value), entry.flash - int(b.flash_bytes.value), 0) for b in known]
        told = "".join(f'<td class="{"no" if n else "yes"}">{f"{n / 1024:,.0f} KiB short" if n else "fits"}</td>' for n in lacks)
        rows.append(f'<tr><td class="name">{entry.number}  {escape(entry.name)}</td>{told}</tr>')
    head = '<th class="name">row</th>' + "".join(f"<th>{escape(b.name)}</th>" for b in known)
    return (
        "<h2>What fits which board</h2><p>RAM and Flash of the dearest step against the board's; how much is missing.</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _rolled_back(lines: Sequence[Line]) -> str:
    found = "".join(f"<li>{escape(line.method)}: {escape(said)}</li>" for line in lines for said in line.rolled_back)
    guarded = any(line.guarded for line in lines)
    if not found and not guarded:
        return ""
    return "<h2>What the guard rolled back</h2>" + (f"<ul>{found}</ul>" if found else "<p>Nothing.</p>")


def _said(scenario: Scenario, lines: Sequence[Line]) -> str:
    return "<h2>What the columns mean</h2>" + "".join(f"<p>{escape(note)}</p>" for note in notes(scenario, lines))
