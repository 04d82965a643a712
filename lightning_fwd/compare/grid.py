"""Several drifts and numbers of labels as one comparison: each cell as it is alone, and one table of all."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import yaml

from ..errors import LightningFwdError
from ..plain_files import naming, read_text, write_whole
from ..recipes import as_plain, require_same, worker_count
from .cells import Cell, cells_of
from .folder import COLUMNS, FREE, RESULTS, SCENARIO
from .run import Finished, check_cells, run_cells
from .scenario import Scenario


def compare_grid(scenario: Scenario, out: Path, jobs: int | None = None, console=None, keep_weights: bool = False) -> Finished:
    """Run what is missing under each drift with each number of labels.

    Each is a comparison in a folder below ``out``, as :func:`compare` writes it; a single one is that comparison, in ``out`` itself.

    Args:
        out: folder of all, with ``scenario.yaml``, ``costs.csv``, ``pretrained/``, and in the end ``results.csv`` of all cells: the columns
            of each cell's, drift and labels.
        jobs, keep_weights: as of :func:`compare`.

    Raises:
        LightningFwdError: as :func:`compare`.
    """
    jobs, cells = worker_count(jobs), cells_of(scenario, out)
    check_cells(cells)
    if len(cells) > 1:
        _open(scenario, cells, out)
    finished = run_cells(scenario, cells, out, jobs, console, keep_weights)
    if len(cells) > 1:
        _save(finished, out)
    return finished


def _open(scenario: Scenario, cells: list[Cell], out: Path) -> None:
    """Refuse a folder of another scenario before anything is changed in it, or of a comparison of one drift."""
    recipe, mend = out / SCENARIO, "choose another --out"
    if any((folder / RESULTS).exists() or any(folder.glob("*.safetensors")) for c in cells for folder in (c.out, c.weights)):
        require_same(recipe, _as_yaml(scenario), (*FREE, "drifts", "labels"), "another scenario")
    if (out / RESULTS).exists():
        header = read_text(out / RESULTS, "the table", mend, most_bytes=1 << 26).partition("\n")[0].strip()
        if header != ",".join(_COLUMNS):
            raise LightningFwdError(
                f"{out} holds a comparison under one drift", "this scenario has several, or several numbers of labels", mend
            )
    with naming(out, mend):
        out.mkdir(parents=True, exist_ok=True)
    write_whole(recipe, _as_yaml(scenario))


_COLUMNS = (*COLUMNS, "drift", "labels")


def _as_yaml(scenario: Scenario) -> str:
    """The scenario without what its list of numbers stands in place of."""
    plain = dataclasses.asdict(dataclasses.replace(scenario, data=as_plain(scenario.data)))
    return yaml.safe_dump({key: value for key, value in plain.items() if key != "adapt_samples" or not scenario.labels}, sort_keys=False)


def _save(finished: Finished, out: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for cell, results in zip(finished.cells, finished.results, strict=True):
        writer.writerows(dataclasses.asdict(result) | {"drift": cell.drift, "labels": cell.labels} for result in results)
    write_whole(out / RESULTS, text.getvalue())
