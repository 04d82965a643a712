"""Pretrain on the source, adapt on the target, measure: one row of the table at a time, in worker processes, resumable."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..adaptation import adapt as adapt_in_stages
from ..callbacks.calibrate_heads import CalibrateHeads
from ..errors import LightningFwdError, RewriteError, StepError
from ..methods import Statistics
from ..recipes import caller_kept, fit, pretrain, require_data, require_same_weights, run_each, store_weights, worker_count
from ..recipes.accuracy import accuracy
from ..workers import Watched
from .cells import Cell, Prepared, cells_of, forget_start, label_free, prepare, start_of
from .costs import Price, price, read_prices, save_prices
from .folder import Result, forget, open_folder, said_of, save
from .row import Row
from .scenario import Scenario

_NOTHING = dict.fromkeys(("accuracy_adapted", "accuracy_source_after", "seconds_per_step"), float("nan"))  #: of a row without a result


class _StepTimer(L.Callback):
    """Wall time of each training step, data loading excluded."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_args) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_args) -> None:
        self.seconds.append(time.perf_counter() - self._start)


@dataclass
class Finished:
    """A comparison that has run: its cells with their results, and the price of each row and number of labels."""

    scenario: Scenario
    cells: list[Cell]
    results: list[list[Result]]
    prices: dict[tuple[str, int], Price]


def compare(scenario: Scenario, out: Path, jobs: int | None = None, console=None, keep_weights: bool = False) -> list[Result]:
    """Run what is missing of a comparison under one drift, with one number of labels, and return all its results.

    Args:
        out: folder for ``results.csv`` and ``details.csv`` (written again with each finished row), ``scenario.yaml`` and ``pretrained/``.
        jobs: worker processes; one per core by default.
        keep_weights: store each adapted network as ``adapted/ROW_seedN.safetensors``; finished rows without that file run again.

    Raises:
        LightningFwdError: the folder cannot be written, or holds results of another scenario or of other weights; as
            :meth:`Scenario.check`; the scenario has several drifts or numbers of labels.
    """
    cells = cells_of(scenario, out)
    if len(cells) > 1:
        raise LightningFwdError(
            f"the scenario has {len(cells)} drifts and numbers of labels", "compare gives the results of one", "use compare_grid"
        )
    check_cells(cells)
    return run_cells(scenario, cells, out, jobs, console, keep_weights).results[0]


@caller_kept()
def run_cells(
    scenario: Scenario, cells: list[Cell], out: Path, jobs: int | None = None, console=None, keep_weights: bool = False
) -> Finished:
    """Run what is missing of all cells, checked, one pool of processes for all; arguments as of :func:`compare`."""
    jobs = worker_count(jobs)
    tables = [_Table(cell, keep_weights) for cell in cells]
    todo = [task for table in tables for task in table.todo()]
    rows = {cell.labels: cell.scenario.all_rows() for cell in cells}
    prices = read_prices(scenario, rows, out)
    unpriced = {(r.name, cell.labels): (cell, r) for cell in cells for r in rows[cell.labels] if (r.name, cell.labels) not in prices}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:

        def each(what: str, function: Callable, calls: Collection[tuple], **named: Any) -> Iterator[Any]:
            bar = progress.add_task(what, total=len(calls), visible=bool(calls))
            for done in run_each(jobs, (joblib.delayed(Watched(function))(*call, **named) for call in calls)):
                yield done
                place, said = done
                where = f", {tables[place].cell}" if len(cells) > 1 and isinstance(said, Result) else ""
                more = f" ({said.method}, seed {said.seed}{where})" if isinstance(said, Result) else ""
                progress.update(bar, advance=1, description=what + more)

        starts = {table.cell.weights_file(seed): (table.cell, seed) for table, _, seed in todo}
        starts |= {cell.weights_file(seed): (cell, seed) for cell, _ in unpriced.values() for seed in cell.scenario.seeds[:1]}
        stages = dict(each("start", _start, [(*start, rows) for start in starts.values()]))
        calls = [(cell, row, stages[cell.weights_file(cell.scenario.seeds[0])][row.name, cell.labels]) for cell, row in unpriced.values()]
        order = [(row.name, labels) for labels, of in rows.items() for row in of]
        for _, priced in each("price", _price, calls):
            prices[priced.method, priced.labels] = priced
            save_prices(scenario, rows, [prices[key] for key in order if key in prices], out)
        calls = [
            (tables.index(table), table.cell, row, seed, stages[table.cell.weights_file(seed)][row.name, table.cell.labels],
             prices[row.name, table.cell.labels], keep_weights)
            for table, row, seed in todo
        ]  # fmt: skip
        for number, result in each("adapt", _adapt, calls):
            tables[number].add(result)
    forget_start()
    return Finished(scenario, cells, [table.results for table in tables], prices)


@caller_kept()
def check_cells(cells: list[Cell]) -> None:
    """Find mistakes before anything is written: of one cell of each source all, of the others whether their drift fits the data."""
    checked, count = set[Path](), "labels" if len(cells) > 1 else "adapt_samples"
    for cell in cells:
        if cell.weights not in checked:
            cell.scenario.check(count)
            checked.add(cell.weights)
            for seed in cell.scenario.seeds:
                require_same_weights(cell.scenario, seed, cell.weights_file(seed))
        else:
            require_data(cell.scenario.data_module(cell.scenario.seeds[0], "target"), count)


class _Table:
    """The results of one cell, in its folder."""

    def __init__(self, cell: Cell, keep_weights: bool):
        self.cell, results = cell, open_folder(cell.scenario, cell.out)
        if keep_weights:
            results = [r for r in results if math.isnan(r.accuracy_adapted) or cell.adapted_file(r.method, r.seed).exists()]
        forget(cell.scenario, results, cell.out)
        self.results, self.order = results, {row.name: i for i, row in enumerate(cell.scenario.all_rows())}

    def todo(self) -> list[tuple[_Table, Row, int]]:
        scenario, known = self.cell.scenario, {(r.method, r.seed) for r in self.results}
        return [(self, row, seed) for seed in scenario.seeds for row in scenario.all_rows() if (row.name, seed) not in known]

    def add(self, result: Result) -> None:
        self.results.append(result)
        self.results.sort(key=lambda r: (self.order.get(r.method, len(self.order)), r.seed))
        save(self.cell.scenario, self.results, self.cell.out)


def _start(cell: Cell, seed: int, rows: dict[int, list[Row]]) -> tuple[Path, dict[tuple[str, int], Prepared]]:
    """Pretrain, if that was not done, and prepare the rows' stages at home."""
    file, scenario = cell.weights_file(seed), cell.scenario
    if not file.exists():
        pretrain(scenario, seed, scenario.data_module(seed, "source"), file, scenario.accelerator)
    return file, prepare(cell, seed, rows)


def _price(cell: Cell, row: Row, stages: Prepared) -> tuple[str, Price]:
    return row.name, price(cell.scenario, row, stages, cell.run)


def _adapt(number: int, *arguments: Any) -> tuple[int, Result]:
    return number, adapt(*arguments)


def adapt(cell: Cell, row: Row, seed: int, stages: Prepared, cost: Price, keep_weights: bool = False) -> Result:
    """One row: the pretrained model, adapted on the target by one rule, or in stages, prepared."""
    start, scenario, costs = start_of(cell, seed), cell.scenario, cost.of_result()
    source, target, figures = start.source, start.target, start.accuracies
    method, timer, before = row.build(seed), _StepTimer(), []
    try:
        if isinstance(stages, Exception):
            raise stages
        first = start.after(label_free(stages), row.held_back) if stages else None
        network = start.network()
        if first is not None:
            rest = stages[len(first.stages) :]
            samples = target.tensors("train")
            done = adapt_in_stages(first.network, rest, samples, held_back=row.held_back, seed=seed) if rest else first
            network = done.network
            said = said_of(first.stages + done.stages if rest else first.stages)
            costs["note"] = "; ".join(filter(None, (cost.note, said)))
        if row.calibrate:
            before.append(CalibrateHeads(source))
        if row.after_statistics:
            recomputed = fit(
                copy.deepcopy(network),
                Statistics(),
                target,
                dataclasses.replace(scenario.adapt, epochs=1),
                accelerator=scenario.accelerator,
            )
            if row.calibrate:  # at home, by the source's statistics; the target's are known on the device
                before.append(_TakeStatistics(recomputed))
            else:
                network = recomputed
        if method is not None:
            training = dataclasses.replace(scenario.adapt, lr=row.lr or scenario.adapt.lr, epochs=row.epochs or scenario.adapt.epochs)
            network = fit(row.frozen(network), method, target, training, *before, timer, accelerator=scenario.accelerator)
    except (RewriteError, StepError) as error:  # does not apply, or diverged: said in the table, not fatal for the others
        return Result(row.name, seed, **figures, **_NOTHING, steps=len(timer.seconds), **{**costs, "note": error.what})
    adapted = accuracy(network, *target.tensors(scenario.split))
    # The last steps may have done it: no loss has seen these weights.
    if math.isnan(adapted) or not all(value.isfinite().all() for value in network.state_dict().values()):
        told = "it diverged: the adapted weights, or what they predict, are not finite"
        return Result(row.name, seed, **figures, **_NOTHING, steps=len(timer.seconds), **{**costs, "note": told})
    if keep_weights:
        store_weights(network, cell.adapted_file(row.name, seed))
    return Result(
        row.name, seed, **figures, accuracy_adapted=adapted, steps=len(timer.seconds),
        seconds_per_step=statistics.median(timer.seconds) if timer.seconds else 0.0,
        accuracy_source_after=accuracy(network, *source.tensors(scenario.split)), **costs,
    )  # fmt: skip


class _TakeStatistics(L.Callback):
    """Start adaptation with the batch-norm statistics of another copy of the network, once callbacks before this one have seen its own."""

    def __init__(self, network: torch.nn.Module):
        self.statistics = {name: b for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var"))}
        self._taken = False

    @torch.no_grad()
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int) -> None:
        if not self._taken:
            self._taken = True
            for name, value in self.statistics.items():
                pl_module.network.get_buffer(name).copy_(value)
