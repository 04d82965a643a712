"""Rates of stages that were chosen before, on other seeds and samples: read from a file, and written into a comparison's rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LightningFwdError
from ..plain_files import read_text
from .row import Row

Rates = Mapping[int, Mapping[str, Mapping[str, float]]]  #: by number of labels, row and stage


def read_rates(file: Path) -> dict[int, dict[str, dict[str, float]]]:
    """What ``tools/benchmarks/choose_rates.py`` wrote.

    Raises:
        LightningFwdError: the file is missing or is no JSON of rates by number of labels, row and stage.
    """
    text = read_text(file, "the rates", "give the file that choose_rates.py wrote")
    try:
        return {int(labels): dict(rows) for labels, rows in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise _unreadable(str(file), str(error)) from error


def check_rates(rates: Any, rows: Sequence[Row]) -> None:
    """Refuse what is no rate, or belongs to no stage of these rows.

    Raises:
        LightningFwdError: as above.
    """
    stages = {row.name: [stage.name for stage in row.adaptation() if stage.learns] for row in rows}
    if not isinstance(rates, Mapping) or not all(isinstance(n, int) and n > 0 and isinstance(of, Mapping) for n, of in rates.items()):
        raise _unreadable("rates", f"{rates!r}")
    for of_rows in rates.values():
        for name, of_stages in of_rows.items():
            if name not in stages:
                raise LightningFwdError(f"rates: there is no row {name!r}", "", f"rows with stages: {[n for n in stages if stages[n]]}")
            for stage, rate in of_stages.items() if isinstance(of_stages, Mapping) else [(of_stages, None)]:
                if stage not in stages[name]:
                    raise LightningFwdError(f"rates: row {name!r} has no stage {stage!r} that learns", "", f"it has {stages[name]}")
                if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
                    raise LightningFwdError(f"rates: row {name!r}, stage {stage!r}: {rate!r}", "", "give a positive number")


def with_rates(rows: Sequence[Row], rates: Rates | None, labels: int) -> list[Row]:
    """The rows with the rates of the nearest number of labels, by ratio, where there are any."""
    if not rates:
        return list(rows)
    nearest = rates[min(rates, key=lambda known: abs(math.log(known / labels)))]
    return [_with_rates(row, nearest[row.name]) if row.name in nearest else row for row in rows]


def _with_rates(row: Row, rates: Mapping[str, float]) -> Row:
    names = [stage.name for stage in row.adaptation()]
    stages = [raw | {"lr": rates[name]} if name in rates else raw for raw, name in zip(row.stages, names, strict=True)]
    return dataclasses.replace(row, stages=stages)


def _unreadable(what: str, why: str) -> LightningFwdError:
    return LightningFwdError(f"{what}: no rates", why, 'write {"100": {"name of the row": {"name of the stage": 0.01}}}, "100" the labels')
