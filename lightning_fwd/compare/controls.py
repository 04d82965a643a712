"""The controls of a comparison, and what their names mean: a row that takes a control's place has to do what the name says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from ..errors import LightningFwdError
from ..methods import Backprop, LearningMethod, SparseUpdate, Statistics
from .row import Row

CONTROLS = (
    Row("none", control=True),
    Row("statistics", "statistics", epochs=1, control=True),
    Row("head", "sparse_update", {"train": "head"}, control=True),
    Row("biases", "sparse_update", {"train": "biases"}, control=True),
    Row("last block", "sparse_update", {"train": 2}, control=True),
    Row("backprop", "backprop", {"batch_norm": "freeze"}, control=True),
)

_HOW = ("train", "batch_norm", "granularity", "seed")  #: settings of a sparse update that do not change what a control's name says


def _trains(fits: Callable[[object], bool]) -> Callable[[LearningMethod], bool]:
    def trains(rule: LearningMethod) -> bool:
        if not isinstance(rule, SparseUpdate) or not fits(rule.train):
            return False
        others = [f for f in dataclasses.fields(rule) if f.name not in _HOW]
        return all(getattr(rule, f.name) == f.default for f in others)

    return trains


def _last_block(train: object) -> bool:
    """The last two blocks, the last one being the head; or modules named whole, for networks whose blocks are others."""
    if isinstance(train, Mapping):
        return all(share == 1 for share in train.values())
    return train == 2 or (isinstance(train, Sequence) and not isinstance(train, str))


#: Of each control that learns: what it says in words, and whether a rule is that.
_MEANING: dict[str, tuple[str, Callable[[LearningMethod], bool]]] = {
    "statistics": ("method: statistics", lambda rule: isinstance(rule, Statistics)),
    "head": ("method: sparse_update with settings: {train: head}", _trains(lambda train: train == "head")),
    "biases": ("method: sparse_update with settings: {train: biases}", _trains(lambda train: train == "biases")),
    "last block": ("method: sparse_update with settings: {train: 2}, or the modules of the block named", _trains(_last_block)),
    "backprop": ("method: backprop", lambda rule: isinstance(rule, Backprop)),
}


def require_meaning(row: Row) -> None:
    """Refuse a row that has a control's name and does something else: the table would show that as the control.

    Rates, epochs, ``freeze``, ``batch_norm`` and a head start by recomputed statistics are the row's own.

    Raises:
        LightningFwdError: naming the row, what its name says and what the row does.
    """
    if row.name == "none":
        does, said = row.method is None and not (row.stages or row.after_statistics or row.calibrate), "a row without method and stages"
    elif row.name in _MEANING:
        said, fits = _MEANING[row.name]
        does = _does(row, fits)
    else:
        return
    if not does:
        raise LightningFwdError(
            f"row {row.name!r}: it is {_in_words(row)}",
            f"{row.name!r} is the name of a control, {said}; the table would show this row in its place",
            "give the row another name",
        )


def _does(row: Row, fits: Callable[[LearningMethod], bool]) -> bool:
    """Whether the row's rule fits, or its last stage's, whatever that chooses, behind none but recomputed statistics."""
    if not row.stages:
        rule = row.build()
        return rule is not None and fits(rule)
    *before, last = row.adaptation()
    if last.adds_layers or not all(isinstance(stage.method, Statistics) for stage in before):
        return False
    return all(fits(candidate.method) for candidate in last.candidates())


def _in_words(row: Row) -> str:
    if row.stages:
        return "stages: " + ", then ".join(f"{stage.method!r}" + " with other layers" * stage.adds_layers for stage in row.adaptation())
    if row.method is None:
        return (
            "a row without method, which leaves the network as it is, with after_statistics or calibrate"
            if (row.after_statistics or row.calibrate)
            else "a row without method, which leaves the network as it is"
        )
    return f"{row.build()!r}"
