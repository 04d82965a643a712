"""The folder of a comparison: what is finished survives a run that is killed, and is never mixed with another scenario's."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import LightningFwdError
from ..recipes import differences
from .scenario import Row, Scenario

RESULTS, DETAILS, SCENARIO = "results.csv", "details.csv", "scenario.yaml"


@dataclass
class Result:
    """One row of the table for one seed: the first ten fields are a line of results.csv, the others, with the row's settings, of details.csv.

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


_FIELDS = [f.name for f in dataclasses.fields(Result)]
_TYPES = {f.name: {"str": str, "int": int, "float": float}[f.type] for f in dataclasses.fields(Result)}
_COLUMNS = {RESULTS: _FIELDS[:10], DETAILS: ["method", "seed", *_FIELDS[10:], "settings"]}


def open_folder(scenario: Scenario, out: Path) -> list[Result]:
    """Make the folder, or read what an earlier run of the same scenario left in it; rows whose settings have changed since are left out.

    Raises:
        LightningFwdError: the folder cannot be written, or holds results or pretrained weights of another scenario.
    """
    recipe = out / SCENARIO
    try:
        out.mkdir(parents=True, exist_ok=True)
        used = (out / RESULTS).exists() or any(out.glob("pretrained/*.safetensors"))
        free = ("rows", "seeds", "controls", "after_statistics", "accelerator")  # of after_statistics the rows' own settings tell
        if recipe.exists() and used and (changes := differences(recipe.read_text(), scenario.as_yaml(), free)):
            raise LightningFwdError(f"{out} holds results of another scenario", "; ".join(changes), "choose another --out, or delete it")
        recipe.write_text(scenario.as_yaml())
    except OSError as error:
        raise LightningFwdError(f"cannot write to {out}", str(error), "choose another --out") from error
    return _read(scenario, out)


def save(scenario: Scenario, results: Sequence[Result], out: Path) -> None:
    """Write both tables, each at once, so that a run that is killed leaves no half line."""
    rows = {row.name: row for row in scenario.all_rows()}
    kept = {(line["method"], int(line["seed"])): line for line in _lines(out / DETAILS) if line["method"] not in rows}
    lines = [dataclasses.asdict(r) | {"settings": _settings(rows[r.method]) if r.method in rows else kept[r.method, r.seed]["settings"]}
             for r in results]  # fmt: skip
    for name in (DETAILS, RESULTS):  # a line of results.csv has its details
        part = out / f"{name}.part"
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS[name], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(lines)
        part.replace(out / name)


def _read(scenario: Scenario, out: Path) -> list[Result]:
    details = {(line["method"], line["seed"]): line for line in _lines(out / DETAILS)}
    wanted = {row.name: _settings(row) for row in scenario.all_rows()}
    results = []
    for line in _lines(out / RESULTS):
        more = details.get((line["method"], line["seed"]))
        if more is not None and more["settings"] == wanted.get(line["method"], more["settings"]):
            results.append(Result(**{name: _TYPES[name]({**more, **line}[name]) for name in _FIELDS}))
    return results


def _lines(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _settings(row: Row) -> str:
    """What makes a row's result: its definition, without what it is called."""
    return json.dumps(
        {k: v for k, v in dataclasses.asdict(row).items() if k not in ("name", "control") and (v or k != "stages")}, sort_keys=True
    )
