"""The folder of a comparison: what is finished survives a run that is killed, and is never mixed with another scenario's."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adaptation.result import AGAIN, StageResult
from ..errors import LightningFwdError
from ..plain_files import naming, read_text, write_whole
from ..recipes import require_same
from .row import Row
from .scenario import Scenario

BACK = "rolled back: "  #: begins what a note says of the guard
RESULTS, DETAILS, SCENARIO = "results.csv", "details.csv", "scenario.yaml"


@dataclass
class Result:
    """One row of the table for one seed: the first ten fields are a line of results.csv, the others, with the row's settings, of
    details.csv.

    Accuracies in percent; operations and memory are of one step on ``cost_batch`` samples at the scenario's width.
    """

    method: str
    seed: int
    accuracy_source: float
    accuracy_drifted: float
    accuracy_adapted: float
    macs_per_step: int
    peak_ram_bytes: int
    weight_bytes: int
    seconds_per_step: float
    steps: int
    accuracy_source_after: float
    flash_bytes: int
    device_ms_per_step: float
    note: str = ""


#: Keys of a scenario that may differ in one folder; of after_statistics the rows' own settings tell.
FREE = ("rows", "seeds", "controls", "after_statistics", "accelerator", "devices", "rates")
_FIELDS = [f.name for f in dataclasses.fields(Result)]
_TYPES = {f.name: {"str": str, "int": int, "float": float}[f.type] for f in dataclasses.fields(Result)}
COLUMNS = tuple(_FIELDS[:10])  #: of results.csv
_COLUMNS = {RESULTS: [*COLUMNS], DETAILS: ["method", "seed", *_FIELDS[10:], "settings", "check"]}
_MEND = "delete the line in results.csv and in details.csv: its row runs again"


def open_folder(scenario: Scenario, out: Path) -> list[Result]:
    """Make the folder, or read what an earlier run of the same scenario left in it; rows whose settings have changed since are left out.

    Raises:
        LightningFwdError: the folder cannot be written, holds results or pretrained weights of another scenario, or is damaged.
    """
    recipe = out / SCENARIO
    with naming(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
    used = (out / RESULTS).exists() or any(out.glob("pretrained/*.safetensors"))
    if used:
        require_same(recipe, scenario.as_yaml(), FREE, "another scenario")
    results = _read(scenario, out)
    write_whole(recipe, scenario.as_yaml())
    return results


def forget(scenario: Scenario, results: Sequence[Result], out: Path) -> None:
    """Take out of the tables what is not among the results any more, before it runs again.

    results.csv first: a run that is killed in between leaves details without a result, and never one row's result with another's details.
    """
    if len(_lines(out / RESULTS)) > len(results):
        save(scenario, results, out, (RESULTS, DETAILS))


def save(scenario: Scenario, results: Sequence[Result], out: Path, order: Sequence[str] = (DETAILS, RESULTS)) -> None:
    """Write both tables, each at once, so that a run that is killed leaves no half line; a line of results.csv has its details."""
    rows = {row.name: row for row in scenario.all_rows()}
    kept = {(line["method"], int(line["seed"])): line for line in _lines(out / DETAILS) if line["method"] not in rows}
    lines = [{k: str(v) for k, v in dataclasses.asdict(r).items()} | {"settings": settings_of(rows[r.method]) if r.method in rows
             else kept[r.method, r.seed]["settings"]} for r in results]  # fmt: skip
    for name in order:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS[name], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**line, "check": _check(line)} for line in lines)
        write_whole(out / name, text.getvalue())


def _read(scenario: Scenario, out: Path) -> list[Result]:
    details = {(line["method"], line["seed"]): line for line in _lines(out / DETAILS)}
    wanted = {row.name: settings_of(row) for row in scenario.all_rows()}
    results = []
    for line in _lines(out / RESULTS):
        whose = f"the row {line['method']!r} of seed {line['seed']}"
        more = details.get((line["method"], line["seed"]))
        if more is None:
            raise LightningFwdError(f"{out / RESULTS} holds {whose}, {DETAILS} does not", "the two are written together", _MEND)
        result = _result({**more, **line}, whose, out)
        if more["settings"] == wanted.get(line["method"], more["settings"]):
            results.append(result)
    return results


def _result(values: dict[str, str], whose: str, out: Path) -> Result:
    """One row of both tables, refused where it is not what was written, or what nothing can have measured."""
    try:
        result = Result(**{name: _TYPES[name](values[name]) for name in _FIELDS})
    except ValueError as error:
        raise LightningFwdError(f"{out / RESULTS}: {whose} cannot be read", str(error), _MEND) from error
    if values.get("check", _check(values)) != _check(values):
        raise LightningFwdError(f"{out / RESULTS}: {whose} is not what was written", "it does not fit its check in details.csv", _MEND)
    for name, value in dataclasses.asdict(result).items():
        most = 100.0 if name.startswith("accuracy") else math.inf
        if not isinstance(value, str) and name != "seed" and not math.isnan(value) and not (0 <= value <= most and value < math.inf):
            raise LightningFwdError(f"{out / RESULTS}: {whose} has {name} {value}", "nothing can have measured that", _MEND)
    return result


def _lines(table: Path) -> list[dict[str, str]]:
    """Lines of one of the tables, by its header; none where there is no such file."""
    if not table.exists():
        return []
    header, *lines = csv.reader(io.StringIO(read_text(table, "the table", "delete the file: its rows run again", most_bytes=1 << 26))) or [
        []
    ]
    columns = _COLUMNS[table.name]
    if header != columns and not (columns[-1] == "check" and header == columns[:-1]):  # older than that column
        raise LightningFwdError(
            f"{table} has the columns {', '.join(header)}", f"expected {', '.join(columns)}", "choose another --out, or delete it"
        )
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise LightningFwdError(f"{table}, line {number}: {len(line)} values for {len(header)} columns", "the file is damaged", _MEND)
    named = [dict(zip(header, line, strict=True)) for line in lines]
    seen = Counter((line["method"], line["seed"]) for line in named)
    if doubled := [key for key, count in seen.items() if count > 1]:
        raise LightningFwdError(f"{table} holds the row {doubled[0][0]!r} of seed {doubled[0][1]} twice", "which one counts?", _MEND)
    return named


def _check(line: dict[str, str]) -> str:
    """Checksum of one row, both tables' part of it."""
    return hashlib.sha256(json.dumps([line[name] for name in (*_FIELDS, "settings")]).encode()).hexdigest()[:16]


def settings_of(row: Row) -> str:
    """What makes a row's result: its definition, without what it is called."""
    return json.dumps(
        {k: v for k, v in dataclasses.asdict(row).items() if k not in ("name", "control") and (v or k != "stages")}, sort_keys=True
    )


def said_of(stages: Sequence[StageResult]) -> str:
    """What was chosen and what the guard rolled back, for a row's note."""
    chosen = [f"{stage.name} ({stage.chosen})" for stage in stages if stage.kept and stage.chosen]
    back = [f"{stage.name} ({stage.note})" for stage in stages if not stage.kept]
    again = [stage.note for stage in stages if stage.kept and stage.note.startswith(AGAIN)]
    parts = [f"chosen: {', '.join(chosen)}"] * bool(chosen) + again + [f"{BACK}{', '.join(back)}"] * bool(back)
    return "; ".join(parts)
