"""An adaptation exactly as the exported library runs it on the device, so that its outcome here predicts the device's.

The loop is that of ``lfwd_adapt.c``, line by line: the same buffer of samples, the same draws, the same guard, plain SGD.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError, RewriteError, StepError
from ..graph.rewritten import RewrittenModel
from ..graph.stored_as import stored_as
from ..integer import Integer
from ..settings import check_settings
from .anomaly import LEAST, MOST, require_kind
from .draws import NORMAL, UNLABELLED, Buffer, hold_back, order, share_of
from .drift_score import DriftScore, features_of
from .guard import Samples, Verdict
from .integer_stages import IntegerNetwork, IntegerStages, IntegerTraining
from .result import Adaptation, StageResult
from .stage import Stage
from .train import Training, unlabelled

_MOST_SAMPLES = 65535  #: the device counts them in 16 bits


@dataclass
class Firmware:
    """What the loop on the device is built with.

    Args:
        samples: room of its buffer. sample_type: how it keeps inputs; ``"int8"``: a byte for each value and a scale for each sample.
        precision: ``"integer"``: weights, steps and the guard are integers, and samples int8 whatever ``sample_type`` says.
        room: of integers, see :class:`lightning_fwd.Integer`: powers of two by which a weight may outgrow its start.
        patience: so many epochs in a row without a better result on the samples held back end a stage.
        false_alarms: notice drift, see :class:`lightning_fwd.adaptation.drift_score.DriftScore`: in this share of streams of 200 inputs
            without drift the alarm may be raised; None: it is not noticed.
        anomalies: the network reconstructs what it reads, and all samples are normal. It is trained and judged by the squared error of
            that, and finds anomalies by it, see :mod:`lightning_fwd.adaptation.anomaly`; this share of normal recordings (or samples) may
            be taken for one. None: the network has classes.
    """

    samples: int = 100
    sample_type: Literal["float32", "int8"] = "float32"
    patience: int = 2
    false_alarms: float | None = None
    precision: Literal["float32", "integer"] = "float32"
    room: int = 1
    anomalies: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, ("samples", "patience"), ())
        if self.samples > _MOST_SAMPLES or self.patience > _MOST_SAMPLES:
            raise LightningFwdError(f"Firmware: samples={self.samples}, patience={self.patience}", "", f"use at most {_MOST_SAMPLES}")
        if self.precision == "integer" and self.false_alarms is not None:
            raise LightningFwdError(
                "Firmware: false_alarms with precision='integer'", "the score of drift is computed in float", "leave one of them out"
            )
        if self.anomalies is not None:
            if not LEAST <= self.anomalies <= MOST:
                raise LightningFwdError(
                    f"Firmware: anomalies={self.anomalies}", "", f"it is a share of normal samples: {LEAST:g} to {MOST:g}"
                )
            if self.precision == "integer":
                raise LightningFwdError(
                    "Firmware: anomalies with precision='integer'", "the score of an anomaly is computed in float", "leave one of them out"
                )
        self.integer()

    def integer(self) -> Integer | None:
        """Settings of the arithmetic; None in float."""
        return Integer(room=self.room) if self.precision == "integer" else None

    def drift_score(self, net: nn.Module, source: Tensor | None) -> DriftScore | None:
        """Calibrated on inputs of the source; None where drift is not noticed.

        Raises:
            LightningFwdError: no or too few inputs, or a share out of range.
        """
        if self.false_alarms is None:
            return None
        if source is None:
            raise LightningFwdError("false_alarms without inputs of the source", "the score is calibrated by them", "give source=inputs")
        return DriftScore.calibrated(features_of(net, source), false_alarms=self.false_alarms)


def adapt_as_firmware(
    net: nn.Module,
    stages: Sequence[Stage],
    samples: Samples,
    firmware: Firmware,
    held_back: float,
    seed: int,
    source: Tensor | None,
) -> Adaptation:
    """What the device does with these samples, given to it in this order, labelled ones first.

    Args:
        source: inputs without drift, by which integers find their scales.

    Raises:
        LightningFwdError: a stage has no C.
    """
    require_kind(net, samples.x, firmware.anomalies is not None)
    x, labels = _collect(net, samples, firmware, seed)
    guarded = share_of(held_back) > 0 and any(label != UNLABELLED for label in labels)
    held = hold_back(labels, held_back, seed) if guarded else [False] * len(labels)
    run = _Integers(net, stages, x, firmware, source) if firmware.precision == "integer" else _Floats(net, stages, x)
    results, learned = list[StageResult](), False
    for number, stage in enumerate(stages):
        training = run.training(number)
        wanted = x if firmware.anomalies is not None else None
        result = _Stage(number, training, labels, held, guarded, learned, wanted).run(firmware.patience, seed)
        learned = learned or (result.kept and (stage.learns or wanted is not None))
        run.ended(training, result.kept)
        results.append(result)
    return run.adaptation(results)


class _Floats:
    """The stages' networks, one after the other."""

    def __init__(self, net: nn.Module, stages: Sequence[Stage], x: Tensor):
        self.net, self.stages, self.x = net, stages, x

    def training(self, number: int) -> Training:
        training = Training(self.net, for_device(self.stages[number]), self.x, count_dropout=True)
        require_device_rule(training.stage, training.model)
        return training

    def ended(self, training: Training, kept: bool) -> None:
        self.net = training.finish() if kept else self.net

    def adaptation(self, results: list[StageResult]) -> Adaptation:
        return Adaptation(self.net, results)


class _Integers:
    """The stages over one set of integer weights."""

    def __init__(self, net: nn.Module, stages: Sequence[Stage], x: Tensor, firmware: Firmware, source: Tensor | None):
        names = [f"stage{number}" for number in range(len(stages))]
        self.library = IntegerStages(net, list(map(for_device, stages)), names, source, cast(Integer, firmware.integer()))
        self.state, self.x = dict(self.library.state), self.library.quantised(x)

    def training(self, number: int) -> IntegerTraining:
        return IntegerTraining(self.library, number, self.state, self.x)

    def ended(self, training: IntegerTraining, kept: bool) -> None:
        """The weights are the library's, taken back where they had to be."""

    def adaptation(self, results: list[StageResult]) -> Adaptation:
        before, after = (IntegerNetwork(self.library, state) for state in (self.library.state, self.state))
        return Adaptation(self.library.network(self.state), results, before, after)


def for_device(stage: Stage) -> Stage:
    """The stage with the settings of the device: its rate is constant, since nobody knows where early stopping will end a schedule.

    Raises:
        RewriteError: it leaves something open that the device cannot choose.
    """
    if stage.is_open:
        raise _refused(
            stage,
            "it leaves a choice open, and the device has one undo copy",
            f"give {_open(stage)}; lf.adapt without firmware finds what is best",
        )
    if stage.steps is not None:
        raise _refused(stage, "how many samples its buffer will hold is not known, and so not how many epochs steps are", "give epochs")
    if stage.adds_layers:
        raise _refused(
            stage,
            "it gives the network layers that the other stages do not have",
            "give them to the network before (lf.map_input(net, samples), lf.widen_head(net, samples)) and leave input and head out",
        )
    return dataclasses.replace(stage, schedule="constant")


def require_device_rule(stage: Stage, model: RewrittenModel) -> None:
    """Refuse a rule that a library of several stages over one set of weights cannot hold.

    Args:
        model: the network under it.
    """
    if not stage.method.has_rounds and (omitted := stage.method.beyond_the_step(model)):
        what, _, mend = omitted.partition("; ")
        raise _refused(stage, what, mend or "take a rule that is a step repeated, such as statistics")
    if changed := stored_as(model):
        raise _refused(
            stage,
            f"it holds {', '.join(list(changed)[:3])} in another form than the network, which the other stages share",
            "choose settings that leave the weights as they are (batch_norm='freeze')",
        )


def _open(stage: Stage) -> str:
    """What of a stage is to be chosen, in the words of its mend: one rate, and the settings in which its candidates differ."""
    *_, last = stage.candidates()
    said = ["one rate"] if stage.learns and len(stage.lr) > 1 else []
    return " and ".join([*said, *(f"{name}=... (such as {getattr(last.method, name)})" for name in stage.open_settings)])


def _refused(stage: Stage, why: str, mend: str) -> RewriteError:
    return RewriteError(f"stage {stage.name} cannot be part of one library: {why}", "", mend)


@torch.no_grad()
def _collect(net: nn.Module, samples: Samples, firmware: Firmware, seed: int) -> tuple[Tensor, list[int]]:
    """What is in the buffer after all samples came by: inputs ``(N, ...)`` and labels."""
    labels = [UNLABELLED if firmware.anomalies is None else NORMAL] * len(samples.inputs)
    if samples.y is not None:
        labels[: len(samples.y)] = samples.y.tolist()
    classes = net(samples.x[:1]).shape[1] if firmware.anomalies is None else 1
    if max(labels) >= classes:
        raise LightningFwdError(f"adapt: label {max(labels)} for {classes} classes", "the device refuses it", "count from 0")
    buffer, slots = Buffer(firmware.samples, classes, seed), dict[int, int]()
    for i, label in enumerate(labels):
        slot = buffer.add(label)
        if slot is not None:
            slots[slot] = i
    x = samples.inputs[[slots[slot] for slot in range(len(buffer.labels))]]
    in_bytes = firmware.sample_type == "int8" and firmware.precision == "float32"
    return through_int8(x) if in_bytes else x, buffer.labels


def through_int8(x: Tensor) -> Tensor:
    """Samples ``(N, ...)`` as the device has them from a buffer of bytes."""
    peak = x.abs().flatten(1).amax(1).reshape(-1, *[1] * (x.dim() - 1))
    factor = torch.where(peak > 0, 127.0 / peak, torch.zeros_like(peak))
    return (x * factor).round() * (peak / 127.0)


class _Stage:
    """One stage on its turn; ``wanted``: of a network that reconstructs, what it is to give of each sample."""

    def __init__(
        self,
        number: int,
        training: Training | IntegerTraining,
        labels: list[int],
        held: list[bool],
        guarded: bool,
        learned: bool,
        wanted: Tensor | None,
    ):
        self.number, self.training, self.stage, self.guarded = number, training, training.stage, guarded
        rows, learns = range(len(labels)), training.stage.learns or wanted is not None
        labelled = [i for i in rows if labels[i] != UNLABELLED]
        self.trains = [i for i in labelled if not held[i]] if learns else list(rows)
        judges = [i for i in labelled if held[i]] if guarded and (learns or learned) else labelled
        self.judges = torch.tensor(judges or list(rows))
        known = torch.tensor(labels) if wanted is None else wanted
        self.target = known if learns else unlabelled(training.x)
        self.truth = known[self.judges] if judges else None

    def run(self, patience: int, seed: int) -> StageResult:
        """Epoch by epoch; the best is kept, or what was before."""
        batch, epochs = self.stage.batch_size, self.stage.epochs or self.stage.default_epochs
        epochs = 1 if self.stage.method.has_rounds else epochs
        batches = len(self.trains) // batch
        few = "too few samples to judge by" if self.guarded and len(self.judges) < 2 else ""
        if few or not batches:
            few = few or f"{len(self.trains)} samples are no batch of {batch}"
            return StageResult(self.stage.name, False, "", math.nan, math.nan, len(self.judges), few)
        before = self._judge()
        best, kept, last, since, passes = None, self.training.weights(), before, 0, 0
        step = self.training.steps(epochs * batches)
        for epoch in range(epochs):
            passes = epoch + 1
            try:
                self._epoch(step, seed, epoch)
                last = self._judge()
            except StepError:  # the device goes on with what is no number, and sees it in the loss
                last = Verdict(math.inf, None)
            if last.loss == math.inf:
                break
            if not self.guarded:
                continue
            if not last.against(before) and (best is None or last.better_than(best)):
                best, kept, since = last, self.training.weights(), 0
            elif (since := since + 1) >= patience:
                break
        return self._result(before, best, last, kept, passes)

    def _epoch(self, step: Callable[[Tensor, Tensor], None], seed: int, epoch: int) -> None:
        """Each sample once, in batches; of a rule in rounds all of them, pass after pass, one going on where the last one stopped."""
        batch, method = self.stage.batch_size, self.stage.method
        while True:
            places = order(len(self.trains), seed, self.number, epoch)
            for start in range(0, len(places) - batch + 1, batch):
                index = torch.tensor([self.trains[place] for place in places[start : start + batch]])
                step(index, self.target[index])
                if method.has_rounds and not method.unfinished(cast(Training, self.training).model):
                    return
            if not method.has_rounds:
                return
            epoch += 1

    def _result(self, before: Verdict, best: Verdict | None, last: Verdict, kept: dict[str, Tensor], passes: int) -> StageResult:
        """What became of it, and the weights that belong to that."""
        finite = last.loss < math.inf
        taken = best is not None if self.guarded else finite
        if self.guarded or not finite:
            self.training.take_back(kept)
        counts = best or last
        note = "" if taken else last.against(before) if finite else "its loss is not finite"
        note = note if self.guarded or not taken else "not guarded: no labels are held back"
        return StageResult(self.stage.name, taken, "", before.loss, counts.loss, len(self.judges), note, passes)

    def _judge(self) -> Verdict:
        return self.training.judge(self.judges, self.truth)
