"""What a row costs on each device of a comparison, and the file that keeps it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adaptation import adaptation_cost
from ..cost import CostReport, step_cost
from ..cost.device import load_device
from ..errors import LightningFwdError, RewriteError, StepError
from ..methods import rewrite
from ..models import build
from ..plain_files import read_text, write_whole
from ..recipes import quiet
from ..trace.optimizers import SGD
from .cells import Prepared
from .folder import settings_of
from .row import Row
from .scenario import Scenario

FILE = "costs.csv"


@dataclass(frozen=True)
class OnDevice:
    """Time and energy of a row's dearest step on one device; NaN: not known."""

    device: str
    ms: float
    microjoules: float


@dataclass(frozen=True)
class Price:
    """What one step of a row costs, whatever the weights and the drift; zeros where it has no step.

    Attributes:
        method, labels: the row, and the number of labels, which counts in the note. note: what does not fit, or what all steps come to.
        on: each device of the comparison.
    """

    method: str
    labels: int
    macs_per_step: int = 0
    peak_ram_bytes: int = 0
    weight_bytes: int = 0
    flash_bytes: int = 0
    note: str = ""
    on: tuple[OnDevice, ...] = ()

    def of_result(self) -> dict[str, int | float | str]:
        """The cost fields of a :class:`Result`; the first device's time."""
        names = "macs_per_step", "peak_ram_bytes", "weight_bytes", "flash_bytes", "note"
        return {name: getattr(self, name) for name in names} | {"device_ms_per_step": self.on[0].ms if self.macs_per_step else 0.0}


_KNOWN: dict[str, dict] = {}  #: of this process and one run: what rows that share stages share


def price(scenario: Scenario, row: Row, stages: Prepared | None = None, run: str = "") -> Price:
    """What a row costs.

    Args:
        stages: of a row with stages.
        run: rows of one run have one network, example, device and width: what is priced of one is known for the next.
    """
    if run not in _KNOWN:
        _KNOWN.clear()
        _KNOWN[run] = {}
    known = _KNOWN[run] if run else {}
    quiet(0)
    method, labels = row.build(), scenario.adapt_samples
    free = Price(row.name, labels, on=tuple(OnDevice(name, 0.0, 0.0) for name in scenario.all_devices()))
    if method is None and not stages:
        return free
    x, y = (part[: scenario.cost_batch] for part in scenario.data_module(scenario.seeds[0], "target").tensors("train"))
    network = build(scenario.model, **scenario.model_args)
    try:
        if isinstance(stages, Exception):
            raise stages
        if stages:
            cost = adaptation_cost(
                network, stages, x, labels, held_back=row.held_back, device=scenario.device, width=scenario.width, known=known
            )
            note = f"in all {cost.macs / 1e9:.1f} GMAC, {cost.macs / cost.inference_macs:,.0f} inferences"
            return _priced(free, scenario, cost.dearest_step, cost.peak_ram_bytes, cost.flash_bytes, note)
        model = rewrite(row.frozen(network), method, x)
        optimizer = SGD(scenario.adapt.lr, scenario.adapt.momentum, scenario.adapt.weight_decay)
        report = step_cost(model, (x, y), device=scenario.device, width=scenario.width, optimizer=optimizer)
    except RewriteError as error:  # of a single rule the row's own run says so
        return dataclasses.replace(free, note=f"no cost: {error.what}") if stages else free
    except StepError as error:  # of so few samples; of the batches that it adapts on it may learn
        what = "no cost" if stages else f"no cost for a step on {scenario.cost_batch} sample(s) (cost_batch)"
        return dataclasses.replace(free, note=f"{what}: {error.what}")
    note = "" if report.verdict.fits else _what_does_not_fit(report)
    return _priced(free, scenario, report, report.peak_ram_bytes, report.flash_bytes, note)


def _priced(free: Price, scenario: Scenario, step: CostReport, ram: int, flash: int, note: str) -> Price:
    on = []
    for name in scenario.all_devices():
        there = step.on(load_device(name))
        on.append(OnDevice(name, 1e3 * there.latency_s, math.nan if there.energy_j is None else 1e6 * there.energy_j))
    return dataclasses.replace(
        free, macs_per_step=step.total_macs, peak_ram_bytes=ram, weight_bytes=step.weight_bytes, flash_bytes=flash, note=note, on=tuple(on)
    )


def _what_does_not_fit(report: CostReport) -> str:
    """By how much a step exceeds the device, and the largest that lies in its memory then."""
    verdict, largest = report.verdict, report.peak_tensors[0]
    said = [f"{-verdict.ram_margin_bytes:,} B of RAM too many, of which {largest.name} ({largest.category}"
            f"{f' of {largest.layer}' if largest.layer else ''}) takes {largest.bytes:,} B, in the {report.peak_moment}"]  # fmt: skip
    if verdict.ram_margin_bytes >= 0:
        said = []
    if verdict.flash_margin_bytes < 0:
        category, size = max(report.plan.flash.items(), key=lambda item: item[1])
        said.append(f"{-verdict.flash_margin_bytes:,} B of Flash too many, of which {category} take {size:,} B")
    return f"one step does not fit {report.device.name}: {'; '.join(said)}"


Rows = Mapping[int, Sequence[Row]]  #: of each number of labels, with its rates

_WHOLE = ("method", "labels", "macs_per_step", "peak_ram_bytes", "weight_bytes", "flash_bytes", "note")
_COLUMNS = (*_WHOLE, "device", "ms", "microjoules", "check")
_NUMBERS = ("labels", "macs_per_step", "peak_ram_bytes", "weight_bytes", "flash_bytes")


def save_prices(scenario: Scenario, rows: Rows, prices: Sequence[Price], out: Path) -> None:
    """Write ``costs.csv``: a line for each row, number of labels and device.

    Args:
        rows: of each number of labels.
    """
    known, text = _by_name(rows), io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for p in prices:
        for on in p.on:
            line = [*(str(getattr(p, name)) for name in _WHOLE), on.device, str(on.ms), str(on.microjoules)]
            writer.writerow([*line, _check(scenario, known[p.method, p.labels], line)])
    write_whole(out / FILE, text.getvalue())


def read_prices(scenario: Scenario, rows: Rows, out: Path) -> dict[tuple[str, int], Price]:
    """What an earlier run left, by row and number of labels, as far as row, devices and lines are what they were; the others are priced
    anew."""
    if not (out / FILE).exists():
        return {}
    header, *lines = csv.reader(io.StringIO(read_text(out / FILE, "the costs", "delete the file: they are counted again"))) or [[]]
    if tuple(header) != _COLUMNS:
        return {}
    known_rows, found = _by_name(rows), dict[tuple[str, int], Price]()
    for line in lines:
        named = dict(zip(_COLUMNS, line, strict=False))
        if len(line) != len(_COLUMNS) or not named["labels"].isdecimal():
            continue
        row = known_rows.get((named["method"], int(named["labels"])))
        if row is None or _check(scenario, row, line[:-1]) != line[-1]:
            continue
        whole = {name: int(named[name]) if name in _NUMBERS else named[name] for name in _WHOLE}
        on = OnDevice(named["device"], float(named["ms"]), float(named["microjoules"]))
        known = found.get((named["method"], int(named["labels"])))
        found[named["method"], int(named["labels"])] = Price(**whole, on=(*(known.on if known else ()), on))
    wanted = scenario.all_devices()
    return {key: p for key, p in found.items() if [on.device for on in p.on] == wanted}


def _by_name(rows: Rows) -> dict[tuple[str, int], Row]:
    return {(row.name, labels): row for labels, of in rows.items() for row in of}


def _check(scenario: Scenario, row: Row, line: Sequence[str]) -> str:
    """Checksum of a line, the row's settings and the device's description."""
    try:
        device = repr(load_device(line[len(_WHOLE)]))
    except LightningFwdError:
        device = ""
    return hashlib.sha256(json.dumps([*line, settings_of(row), device, scenario.width, scenario.cost_batch]).encode()).hexdigest()[:16]
