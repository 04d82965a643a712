"""The cells of a comparison: each drift with each number of labels, in a folder of its own; and what rows of one cell share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import torch

from ..adaptation import Adaptation, Stage, adapt
from ..errors import RewriteError, StepError
from ..methods import LearningMethod
from ..recipes import pretrained, quiet
from ..recipes.accuracy import accuracy
from .row import Row
from .scenario import Scenario


@dataclass(frozen=True, eq=False)
class Cell:
    """One drift and one number of labels.

    Attributes:
        scenario: with these. drift: its name, "" where the scenario names none in ``drifts``. out: the folder of its tables.
        weights: folder of what each seed starts from; cells with the same source share that of the first of them.
        run: tells runs of one process apart.
    """

    scenario: Scenario
    drift: str
    out: Path
    weights: Path
    run: str = field(default_factory=lambda: uuid4().hex)

    @property
    def labels(self) -> int:
        return self.scenario.adapt_samples

    def weights_file(self, seed: int) -> Path:
        return self.weights / f"seed{seed}.safetensors"

    def adapted_file(self, row: str, seed: int) -> Path:
        return self.out / "adapted" / f"{quote(row, safe=' ')}_seed{seed}.safetensors"

    def __str__(self) -> str:
        return f"{self.drift}, {self.labels} labels" if self.drift else f"{self.labels} labels"


def cells_of(scenario: Scenario, out: Path) -> list[Cell]:
    """All cells, drift by drift; of a single one the folder is ``out`` itself."""
    drifts, labels, run = scenario.drifts or [""], scenario.labels or [scenario.adapt_samples], uuid4().hex
    cells, homes = [], dict[str | None, Path]()
    for drift in drifts:
        data = {**scenario.data, "drift": drift} if drift else scenario.data
        of_drift = out / quote(drift, safe="=+,") if scenario.drifts else out
        for number in labels:
            own = dataclasses.replace(scenario, data=data, adapt_samples=number, drifts=None, labels=None).with_rates()
            if len(drifts) * len(labels) == 1:
                return [Cell(own, drift, out, out / "pretrained", run)]
            real, source = _source_of(own)
            home = homes.setdefault(source, of_drift if real else out)
            cells.append(Cell(own, drift, of_drift / f"{number}_labels", home / "pretrained", run))
    return cells


def _source_of(scenario: Scenario) -> tuple[bool, str | None]:
    """Whether the drift is a real one, between two sets of data; and which of the data's sources it is from."""
    if "module" in scenario.data:
        return False, None
    source = scenario.data_module(0, "source")
    return source.real_drift is not None, source.which_source


class Start:
    """What the rows of one cell and seed begin with: the samples, what the network is worth before, and their first stages' outcome.

    Nothing of it depends on which row asks first: generators of random numbers are set anew for each part.
    """

    def __init__(self, cell: Cell, seed: int):
        self.cell, self.seed = cell, seed
        self.source, self.target = (cell.scenario.data_module(seed, view) for view in ("source", "target"))
        self._after: dict[str, Adaptation] = {}

    def network(self) -> torch.nn.Module:
        """As it was before drift."""
        quiet(self.seed)
        return pretrained(self.cell.scenario, self.cell.weights_file(self.seed))

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """Before and after drift, not adapted."""
        network, split = self.network(), self.cell.scenario.split
        return {
            "accuracy_source": accuracy(network, *self.source.tensors(split)),
            "accuracy_drifted": accuracy(network, *self.target.tensors(split)),
        }

    def after(self, stages: list[Stage], held_back: float) -> Adaptation:
        """The network after stages that need no labels to learn from, run once for all rows that begin with them."""
        key = repr((stages, held_back))
        if key not in self._after:
            network = self.network()
            self._after[key] = (
                adapt(network, stages, self.target.tensors("train"), held_back=held_back, seed=self.seed)
                if stages
                else Adaptation(network.eval(), [])
            )
        return self._after[key]


_LAST: list[tuple[tuple[str, Path, int], Start]] = []  #: of this process: rows of one cell and seed follow each other


def start_of(cell: Cell, seed: int) -> Start:
    """What this process keeps of a cell and seed."""
    key = cell.run, cell.out, seed
    if not _LAST or _LAST[0][0] != key:
        _LAST[:] = []  # the samples of the one before need not lie beside these
        _LAST[:] = [(key, Start(cell, seed))]
    return _LAST[0][1]


def forget_start() -> None:
    """Let go of the samples."""
    _LAST[:] = []


def label_free(stages: list[Stage]) -> list[Stage]:
    """Those before the first that learns: labels only judge them, so that it is all one whether they run alone."""
    return stages[: next((i for i, stage in enumerate(stages) if stage.learns), len(stages))]


Prepared = list[Stage] | RewriteError | StepError  #: stages of a row; or why they do not apply to the network


def prepare(cell: Cell, seed: int, rows: dict[int, list[Row]]) -> dict[tuple[str, int], Prepared]:
    """The stages of each row and number of labels, with what their rules take along of the source, written beside the weights that it
    belongs to."""
    found: dict[tuple[str, int], Prepared] = {(row.name, labels): [] for labels, of in rows.items() for row in of}
    if not any(row.stages for of in rows.values() for row in of):
        return found
    start, known = Start(cell, seed), dict[str, LearningMethod]()
    network = start.network()
    for labels, row in ((labels, row) for labels, of in rows.items() for row in of):
        stages = row.adaptation()
        try:
            for stage in stages:
                if (key := repr((stage.method, stage.input))) not in known:  # whatever its rate
                    known[key] = stage.prepared(network, start.source, cell.weights_file(seed)).method
        except (RewriteError, StepError) as error:
            found[row.name, labels] = error
        else:
            found[row.name, labels] = [dataclasses.replace(s, method=known[repr((s.method, s.input))]) for s in stages]
    return found
