"""Pretrain on the source, adapt on the target, measure: one row of the table at a time, in worker processes, resumable."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import joblib
import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..callbacks.calibrate_heads import CalibrateHeads
from ..cost import CostReport, step_cost
from ..errors import RewriteError, StepError
from ..methods import Statistics, rewrite
from ..models import build
from ..recipes import caller_kept, fit, pretrain, pretrained, quiet, require_same_weights, run_each, store_weights, worker_count
from ..recipes.accuracy import accuracy
from ..trace.optimizers import SGD
from ..workers import Watched
from .folder import Result, forget, open_folder, save
from .in_stages import price_stages, run_stages, said_of
from .scenario import Row, Scenario

Cost = dict[str, Any]  #: the cost fields of a :class:`Result`, with a note where there is no figure


_NOTHING = dict.fromkeys(("accuracy_adapted", "accuracy_source_after", "seconds_per_step"), float("nan"))  #: of a row without a result


class _StepTimer(L.Callback):
    """Wall time of each training step, data loading excluded."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_args) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_args) -> None:
        self.seconds.append(time.perf_counter() - self._start)


@caller_kept()
def compare(scenario: Scenario, out: Path, jobs: int | None = None, console=None, keep_weights: bool = False) -> list[Result]:
    """Run what is missing of a comparison and return all its results.

    Args:
        out: folder for ``results.csv`` and ``details.csv`` (written again with each finished row), ``scenario.yaml`` and ``pretrained/``.
        jobs: worker processes; one per core by default.
        keep_weights: store each adapted network as ``adapted/ROW_seedN.safetensors``; finished rows without that file run again.

    Raises:
        LightningFwdError: the folder cannot be written, or holds results of another scenario or of other weights; as
            :meth:`Scenario.check`.
    """
    jobs = worker_count(jobs)
    scenario.check()
    for seed in scenario.seeds:
        require_same_weights(scenario, seed, _weights_file(out, seed))
    results = open_folder(scenario, out)
    if keep_weights:
        results = [r for r in results if math.isnan(r.accuracy_adapted) or _adapted_file(out, r.method, r.seed).exists()]
    forget(scenario, results, out)
    order, known = {row.name: i for i, row in enumerate(scenario.all_rows())}, {(r.method, r.seed) for r in results}
    todo = [(row, seed) for seed in scenario.seeds for row in scenario.all_rows() if (row.name, seed) not in known]
    untrained = [seed for seed in dict.fromkeys(seed for _, seed in todo) if not _weights_file(out, seed).exists()]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("pretrain", total=len(untrained), visible=bool(untrained))
        calls = (
            joblib.delayed(Watched(pretrain))(
                scenario, seed, scenario.data_module(seed, "source"), _weights_file(out, seed), scenario.accelerator
            )
            for seed in untrained
        )
        for _ in run_each(jobs, calls):
            progress.advance(bar)
        rows = {row.name: row for row, _ in todo}
        bar = progress.add_task("price", total=len(rows), visible=bool(rows))
        costs: dict[str, Cost] = {}
        for name, cost in run_each(jobs, (joblib.delayed(Watched(price))(scenario, row, out) for row in rows.values())):
            costs[name] = cost
            progress.advance(bar)
        bar = progress.add_task("adapt", total=len(todo), visible=bool(todo))
        calls = (joblib.delayed(Watched(adapt))(scenario, row, seed, out, costs[row.name], keep_weights) for row, seed in todo)
        for result in run_each(jobs, calls):
            results.append(result)
            results.sort(key=lambda r: (order.get(r.method, len(order)), r.seed))
            save(scenario, results, out)
            progress.update(bar, advance=1, description=f"adapt ({result.method}, seed {result.seed})")
    return results


def price(scenario: Scenario, row: Row, out: Path) -> tuple[str, Cost]:
    """What one step of a row costs, whatever the weights; nothing where it has no step."""
    quiet(0)
    method = row.build()
    cost = dict(macs_per_step=0, peak_ram_bytes=0, weight_bytes=0, flash_bytes=0, device_ms_per_step=0.0)
    if row.stages:
        try:
            return row.name, price_stages(scenario, row, _weights_file(out, scenario.seeds[0]))
        except (RewriteError, StepError) as error:
            return row.name, cost | {"note": f"no cost: {error.what}"}
    if method is not None:
        x, y = (part[: scenario.cost_batch] for part in scenario.data_module(scenario.seeds[0], "target").tensors("train"))
        try:
            model = rewrite(row.frozen(build(scenario.model, **scenario.model_args)), method, x)
            optimizer = SGD(scenario.adapt.lr, scenario.adapt.momentum, scenario.adapt.weight_decay)
            report = step_cost(model, (x, y), device=scenario.device, width=scenario.width, optimizer=optimizer)
        except RewriteError:  # adapt says so
            return row.name, cost
        except StepError as error:  # of so few samples; of the batches that it adapts on it may learn
            return row.name, cost | {"note": f"no cost for a step on {scenario.cost_batch} sample(s) (cost_batch): {error.what}"}
        cost = dict(
            macs_per_step=report.total_macs, peak_ram_bytes=report.peak_ram_bytes, weight_bytes=report.weight_bytes,
            flash_bytes=report.flash_bytes, device_ms_per_step=1e3 * report.latency_s,
        )  # fmt: skip
        if not report.verdict.fits:
            cost["note"] = _what_does_not_fit(report)
    return row.name, cost


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


def adapt(scenario: Scenario, row: Row, seed: int, out: Path, cost: Cost, keep_weights: bool = False) -> Result:
    """One row: the pretrained model, adapted on the target by one rule."""
    quiet(seed)
    network = pretrained(scenario, _weights_file(out, seed))
    source, target = scenario.data_module(seed, "source"), scenario.data_module(seed, "target")
    figures = dict(
        accuracy_source=accuracy(network, *source.tensors(scenario.split)),
        accuracy_drifted=accuracy(network, *target.tensors(scenario.split)),
    )
    method, timer, before = row.build(seed), _StepTimer(), []
    try:
        if row.stages:
            done = run_stages(row, network, source, target, _weights_file(out, seed), seed)
            network, cost = done.network, cost | {"note": "; ".join(filter(None, (cost.get("note", ""), said_of(done))))}
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
        return Result(row.name, seed, **figures, **_NOTHING, steps=len(timer.seconds), **{**cost, "note": error.what})
    adapted = accuracy(network, *target.tensors(scenario.split))
    # The last steps may have done it: no loss has seen these weights.
    if math.isnan(adapted) or not all(value.isfinite().all() for value in network.state_dict().values()):
        note = "it diverged: the adapted weights, or what they predict, are not finite"
        return Result(row.name, seed, **figures, **_NOTHING, steps=len(timer.seconds), **{**cost, "note": note})
    if keep_weights:
        store_weights(network, _adapted_file(out, row.name, seed))
    return Result(
        row.name, seed, **figures, accuracy_adapted=adapted, steps=len(timer.seconds),
        seconds_per_step=statistics.median(timer.seconds) if timer.seconds else 0.0,
        accuracy_source_after=accuracy(network, *source.tensors(scenario.split)), **cost,
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


def _adapted_file(out: Path, row: str, seed: int) -> Path:
    return out / "adapted" / f"{quote(row, safe=' ')}_seed{seed}.safetensors"


def _weights_file(out: Path, seed: int) -> Path:
    return out / "pretrained" / f"seed{seed}.safetensors"
