"""A comparison cut down to a look: that everything runs, not what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from .row import Row
from .scenario import Scenario

EPOCHS, RATES, LABELS, TESTED, DRIFTS = 3, 2, 50, 200, 2


def quick(scenario: Scenario, said: Collection[str] = ()) -> Scenario:
    """The same rows for one seed, on 200 test samples, with at most 50 labels, 3 epochs, 2 rates and settings to choose from, 2 drifts.

    Args:
        said: keys that somebody asked for beside the recipe (``seeds``, ``drifts``, ``labels``): these stay as they are.
    """
    training = {
        name: dataclasses.replace(t, epochs=min(EPOCHS, t.epochs))
        for name in ("pretrain", "adapt")
        if (t := getattr(scenario, name)) is not None
    }
    fewer: dict[str, Any] = {
        "seeds": scenario.seeds[:1],
        "labels": scenario.labels and [min(LABELS, *scenario.labels)],
        "drifts": scenario.drifts and scenario.drifts[:DRIFTS],
    }
    return dataclasses.replace(
        scenario,
        data={**scenario.data, "test_samples": min(TESTED, scenario.data.get("test_samples") or TESTED)},
        rows=[_quick_row(row) for row in scenario.rows],
        adapt_samples=min(LABELS, scenario.adapt_samples),
        **{name: value for name, value in fewer.items() if name not in said},
        **training,
    )


def _quick_row(row: Row) -> Row:
    return dataclasses.replace(row, epochs=row.epochs and min(EPOCHS, row.epochs), stages=[_quick_stage(stage) for stage in row.stages])


def _quick_stage(stage: dict[str, Any]) -> dict[str, Any]:
    fewer: dict[str, Any] = {"epochs": min(EPOCHS, stage["epochs"])} if stage.get("epochs") else {}
    stage = {key: value for key, value in stage.items() if key != "steps"}
    return stage | fewer | {key: stage[key][:RATES] for key in ("lr", "choose") if isinstance(stage.get(key), list)}
