"""The budget search: measure what each candidate wins back, choose the best set that the ledger lets through, write it as a scheme."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F

from ..cost import price
from ..data import DriftDataModule
from ..errors import LightningFwdError
from ..methods import SparseUpdate, rewrite
from ..methods.scheme import write_scheme
from ..plain_files import naming, write_whole
from ..recipes import (
    caller_kept,
    data_module,
    pretrain,
    pretrained,
    require_data,
    require_fit,
    require_same,
    require_same_weights,
    require_trained,
    run_each,
    starting_network,
    worker_count,
)
from ..strict_yaml import load_yaml
from ..trace import trace_inference
from ..workers import Watched
from .budget import Budget, parse_budget
from .choose import Prices, best, random_genome, require_some
from .contribution import accuracy_after, with_statistics
from .kept import measurement, read_measurements
from .space import Genome, Space
from .spec import RECORDED, SchemeSearch

Pair = tuple[Tensor, Tensor]
START = "pretrained.safetensors"  #: in the folder of a search, what its trainings start from
_RANDOM_FINALISTS = 1000  #: added to the seed, so that the search's random sets are none of the controls'


@dataclass
class Found:
    """Result of a search: the method, its genome, what its step costs, and the mean accuracy (percent) under the simulated drifts.

    ``unadapted`` is the accuracy that training starts from (statistics recomputed, if asked for). Where random schemes were asked for,
    ``judged`` and ``controls`` are the accuracy of the one found and of these, trained on other samples than the search measured on and
    tested on the data set's
    test part: none of these samples had part in the choice. ``controls_ram``: bytes that each random scheme takes.
    """

    method: SparseUpdate
    genome: Genome
    budget: Budget
    ram_bytes: int
    macs: int
    accuracy: float
    unadapted: float
    judged: float | None = None
    controls: tuple[float, ...] = ()
    controls_ram: tuple[int, ...] = ()


@caller_kept()
def search(spec: SchemeSearch, out: Path, jobs: int | None = None, console: Console | None = None, controls: int = 0) -> Found:
    """Run what is missing of a search and write ``scheme.yaml``.

    Args:
        out: folder for ``scheme.yaml``, ``contributions.csv`` and ``prices.json``; run again to resume, or with another budget
            to search again from the same measurements.
        jobs: worker processes; one per core by default.
        controls: how many random schemes that use up the same budget to judge beside the one found (``judged.csv``).

    Raises:
        LightningFwdError: no sparse update keeps the budget, the model does not know the source, or ``out`` holds measurements of another
            search, or of other weights; a setting that is unknown or does not fit.
    """
    for drift in spec.drifts:  # all that can be wrong, before the long part
        require_data(_target(spec, drift), "samples")
    instead = _INSTEAD | ({"batch_size": "it is a key of pretrain"} if spec.pretrain else {})
    source = data_module(spec.data, instead, seed=spec.seed, **({"batch_size": spec.pretrain.batch_size} if spec.pretrain else {}))
    net, example = starting_network(spec), torch.zeros(2, *source.input_shape)
    require_fit(net, source)
    space = Space.of(net, example, spec.fractions)
    budget = _budget(spec, net, example)
    if controls:
        _samples(spec, spec.drifts[0], judging=True)  # that there are enough
    if spec.pretrain is None:
        require_trained(spec, net, source, "val")
    require_same_weights(spec, spec.seed, out / START)
    _open_folder(spec, out)
    if not (out / START).exists():
        if spec.pretrain is not None and console is not None:
            console.print(f"pretraining, {spec.pretrain.epochs} epochs on the source", highlight=False)
        pretrain(spec, spec.seed, source, out / START)
    net = pretrained(spec, out / START)
    if spec.pretrain is not None:
        try:
            require_trained(spec, net, source, "val")
        except LightningFwdError:
            (out / START).unlink()  # so that another pretraining may follow in this folder
            raise
    prices = Prices(net, example, space, spec.width, spec.momentum, out / f"prices_{spec.width}_{spec.momentum:g}.json")
    require_some(space, space.options, prices, budget, count=1)
    measured = Measured(spec, space, out / "contributions.csv", jobs, console)
    depths = [space.bias_only(d) for d in range(len(space.units) + 1)]
    singles = [space.single(u, o) for u in range(len(space.units)) for o in range(1, len(space.fractions) + 1)]
    accuracy = measured.of([*depths, *singles])
    biases = [accuracy[g] - accuracy[space.nothing] for g in depths]
    weights = [
        [
            0.0,
            *(accuracy[g := space.single(u, o)] - accuracy[space.bias_only(g[0])] for o in range(1, len(space.fractions) + 1)),
        ]
        for u in range(len(space.units))
    ]

    def value(genome: Genome) -> float:
        return biases[genome[0]] + sum(gains[option] for gains, option in zip(weights, genome[1:], strict=True))

    options = [[0, *(d for d in range(1, len(depths)) if biases[d] > 0)]]
    options += [[0, *(o for o in range(1, len(gains)) if gains[o] > 0)] for gains in weights]
    finalists = best(space, value, options, prices, budget, spec.seed, spec.finalists)
    finalists += [random_genome(space, prices, budget, spec.seed + _RANDOM_FINALISTS + i) for i in range(spec.finalists)]
    accuracy |= measured.of(finalists)
    chosen = _breed(accuracy, value, options, lambda g: prices.fit(g, budget) and budget.allows(*prices.of(g)), measured, spec)
    found = Found(space.method(chosen), chosen, budget, *prices.of(chosen), accuracy[chosen], accuracy[space.nothing])
    if controls:
        drawn = [random_genome(space, prices, budget, spec.seed + i) for i in range(controls)]
        judged = Measured(spec, space, out / "judged.csv", jobs, console, judging=True).of([chosen, *drawn])
        ram = tuple(prices.of(g)[0] for g in drawn)
        found = dataclasses.replace(found, judged=judged[chosen], controls=tuple(judged[g] for g in drawn), controls_ram=ram)
    _write(found, spec, net, example, out / "scheme.yaml")
    return found


def _breed(
    accuracy: dict[Genome, float],
    value: Callable[[Genome], float],
    options: Sequence[Sequence[int]],
    fits: Callable[[Genome], bool],
    measured: Measured,
    spec: SchemeSearch,
) -> Genome:
    """The best set found by training sets as a whole: the best one grown by a part, and children of the better ones.

    Gains do not add up: two parts that each help may harm together. So what is kept is decided by sets, not by sums of parts.

    Args:
        accuracy: of all sets measured so far; gains those measured here.
    """
    draw, stale = random.Random(spec.seed), 0
    while True:
        parents = [g for g in sorted(filter(any, accuracy), key=lambda g: (-accuracy[g], g)) if fits(g)][: 2 * spec.finalists]
        if stale == 2:
            return parents[0]
        chosen = parents[0]
        larger = [(*chosen[:i], o, *chosen[i + 1 :]) for i, choices in enumerate(options) for o in choices if o > chosen[i]]
        larger = (g for g in sorted(larger, key=lambda g: (-value(g), g)) if g not in accuracy and fits(g))
        new = list(itertools.islice(larger, spec.finalists))
        for _ in range(20 * spec.finalists):
            if len(new) >= 2 * spec.finalists:
                break
            child = [draw.choice(genes) for genes in zip(*draw.choices(parents, k=2), strict=True)]
            place = draw.randrange(len(child))
            child[place] = draw.choice(options[place])
            if any(child) and tuple(child) not in accuracy and tuple(child) not in new and fits(tuple(child)):
                new.append(tuple(child))
        accuracy |= measured.of(new)
        stale = 0 if any(accuracy[g] > accuracy[chosen] for g in new) else stale + 1


class Measured:
    """Accuracy after a short training of each genome, averaged over the drifts; measured in worker processes, kept in a file.

    Args:
        judging: measure on samples that have no part in the search.

    Raises:
        LightningFwdError: the file holds something else.
    """

    def __init__(self, spec: SchemeSearch, space: Space, file: Path, jobs: int | None, console: Console | None, judging: bool = False):
        self._spec, self._space, self._file, self._console, self._judging = spec, space, file, console, judging
        self._jobs = worker_count(jobs)
        self._known = read_measurements(file, space, spec.drifts)

    def of(self, genomes: list[Genome]) -> dict[Genome, float]:
        """Percent, by genome."""
        wanted = dict.fromkeys(genomes)
        todo = [(g, d) for d in self._spec.drifts for g in wanted if (g, d) not in self._known]
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console) as progress, self._file.open("a", newline="") as file:
            bar = progress.add_task("random schemes" if self._judging else "contributions", total=len(todo), visible=bool(todo))
            start = self._file.parent / START
            calls = (
                joblib.delayed(Watched(_measure))(self._spec, self._space, start, genome, drift, self._judging) for genome, drift in todo
            )
            done = run_each(self._jobs, calls, in_order=True)
            for (genome, drift), accuracy in zip(todo, done, strict=True):
                self._known[genome, drift] = accuracy
                with naming(self._file):
                    file.write(measurement(genome, drift, accuracy))
                    file.flush()
                progress.advance(bar)
        drifts = self._spec.drifts
        return {g: sum(self._known[g, d] for d in drifts) / len(drifts) for g in wanted}


def _measure(spec: SchemeSearch, space: Space, file: Path, genome: Genome, drift: str, judging: bool) -> float:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    start, train, held_out = _under(yaml.safe_dump(dataclasses.asdict(spec)), file, drift, judging)
    if not any(genome):
        return accuracy_after(start, None, train, held_out)
    training = dict(lr=spec.lr, epochs=spec.epochs, batch_size=spec.batch_size, momentum=spec.momentum, seed=spec.seed)
    return accuracy_after(start, space.method(genome), train, held_out, **training)


@functools.lru_cache(maxsize=2)
def _under(spec_yaml: str, file: Path, drift: str, judging: bool) -> tuple[nn.Module, Pair, Pair]:
    """The network that training starts from, and the samples under one drift; kept by each worker."""
    spec = SchemeSearch(**load_yaml(spec_yaml))
    train, held_out = _samples(spec, drift, judging)
    net = pretrained(spec, file)
    if spec.after_statistics:
        net = with_statistics(net, train[0], spec.batch_size)
    return net, train, held_out


def _samples(spec: SchemeSearch, drift: str, judging: bool) -> tuple[Pair, Pair]:
    """Training and held-out samples of the search; when judging, as many others for training, and test samples."""
    data = _target(spec, drift)
    x, y = data.tensors("train")
    if judging:
        try:
            more_x, more_y = data.changed(train_samples=2 * spec.samples).tensors("train")
        except ValueError as error:
            raise LightningFwdError(
                f"random schemes cannot be judged: {error}",
                "they train on as many samples as the search, and on none of those",
                "lower samples",
            ) from error
        # A larger draw with the same seed begins, class by class, with the smaller one.
        rank = F.one_hot(more_y).cumsum(0).gather(1, more_y[:, None]).squeeze(1)
        others = rank > y.bincount(minlength=int(more_y.max()) + 1)[more_y]
        x, y = more_x[others], more_y[others]
    held_x, held_y = data.tensors("test" if judging else "val")
    return (x, y), (held_x[: spec.held_out], held_y[: spec.held_out])


def _target(spec: SchemeSearch, drift: str) -> DriftDataModule:
    if drift == RECORDED and spec.data.get("target_dataset"):
        drift = None
    return data_module(spec.data, _INSTEAD, drift=drift, view="target", train_samples=spec.samples, seed=spec.seed)


#: Arguments of the data that a search says in another place.
_INSTEAD = {
    "train_samples": "the number of samples is the key samples",
    "seed": "it is a key of the search, beside data",
    "drift": "the drifts are the key drifts",
    "view": "a search is about both views, source and target",
}


def _budget(spec: SchemeSearch, net: nn.Module, example: Tensor) -> Budget:
    model = rewrite(net, SparseUpdate(), example)
    inference = price(trace_inference(model, example[:1]), model, width=spec.width)
    model.undo()
    return parse_budget(spec.budget, inference.total_macs, inference.peak_ram_bytes)


def _open_folder(spec: SchemeSearch, out: Path) -> None:
    """Measurements are of use to a search with another budget, not to one with other data or training."""
    with naming(out, "choose another --out"):
        out.mkdir(parents=True, exist_ok=True)
    recipe, text = out / "search.yaml", yaml.safe_dump(dataclasses.asdict(spec), sort_keys=False)
    if (out / START).exists() or (out / "contributions.csv").exists():
        require_same(recipe, text, ("budget", "width", "finalists"), "another search")
    write_whole(recipe, text)


def _write(found: Found, spec: SchemeSearch, net: nn.Module, example: Tensor, file: Path) -> None:
    """The scheme with its channels spelt out, so that it means the same on weights that have moved."""
    model = rewrite(net, found.method, example)
    parts = {path: model.part_of(f"{path}.weight") for path in found.method.train}
    train = {path: 1.0 if part is None else part.index.tolist() for path, part in parts.items()}
    model.undo()
    about = {
        "model": spec.model, "budget": str(found.budget), "width": spec.width, "ram_bytes": found.ram_bytes, "macs_per_step": found.macs,
        "drifts": spec.drifts, "accuracy": round(found.accuracy, 2), "unadapted": round(found.unadapted, 2),
        "after_statistics": spec.after_statistics,
        "training": {"lr": spec.lr, "epochs": spec.epochs, "batch_size": spec.batch_size, "momentum": spec.momentum},
        "fractions": {path: amount for path, amount in found.method.train.items()},
    }  # fmt: skip
    if found.controls:
        about |= {
            "judged": round(found.judged, 2),
            "controls": [round(a, 2) for a in found.controls],
            "controls_ram_bytes": list(found.controls_ram),
        }
    write_scheme(file, train, found.method.biases, about)
