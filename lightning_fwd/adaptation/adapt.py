"""Adapt a model in stages, each held against doing nothing on samples that it did not learn from; what harms is rolled back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError, StepError
from ..settings import seed_fault
from .firmware import Firmware, adapt_as_firmware
from .guard import Samples, judge, read_samples, require_counts, split
from .result import AGAIN, Adaptation, StageResult
from .stage import Stage, as_stages, require_labels
from .train import train


@torch.inference_mode(False)  # called from an evaluation or not: stages learn by gradients
@torch.enable_grad()
def adapt(
    net: nn.Module,
    stages: Any,
    data: Any,
    *,
    unlabelled: Any = None,
    held_back: float = 1 / 3,
    refit: bool = True,
    seed: int = 0,
    firmware: Firmware | bool = False,
    source: Any = None,
) -> Adaptation:
    """Run the stages in order on a copy of a network.

    A share of the labelled samples is held back. A stage is kept if the loss there, each network's at its own best scale of the logits,
    is lower with it than without, and if it does not lose more right answers than it wins by more than their standard error; what learned
    from no label has to gain more than that gain's standard error. Of several rates or settings that pass, the one with the lowest loss
    is taken. Until a stage has followed a loss on labels, all of them judge. At the end the stages that were kept are run once
    more, from before the first that learns, with their rates, on all labelled samples; what comes out is taken if it fits these better
    than before. Without labels nothing guards, and settings are chosen by the entropy of the predictions.

    Args:
        net: a classifier, or, with ``firmware.anomalies``, a network that reconstructs; left as it is.
        stages: a list of :class:`Stage`, rules or names of rules, or mappings of a stage's arguments (as in a recipe).
        data: ``(x, y)`` of the target, or ``x`` without labels, batches of these, or a LightningDataModule.
        unlabelled: more samples of the target, for stages that need no labels.
        held_back: the share of labelled samples that judge; 0: no stage is guarded, and each must say all its settings.
        refit: whether kept stages learn from the samples held back too, in the end.
        seed: of what is held back, of the order of samples, and of what the network draws (dropout).
        firmware: do what the exported library does on the device, draw by draw: a buffer of samples, constant rates, early stopping, the
            best weights kept, and no last run (``refit``). It keeps no loss of each sample, and so does not
            ask whether a gain may be chance.
        source: inputs without drift ``(N, ...)``, by which ``firmware`` in integers finds its scales: those given to the export.

    Raises:
        LightningFwdError: stages or data that cannot be used, labels lacking for a stage that learns, too few samples to hold any back.
    """
    stages, samples = as_stages(stages), read_samples(data, unlabelled)
    loop = Firmware() if firmware is True else firmware or None
    _check(net, stages, samples, held_back, seed, loop is not None and loop.anomalies is not None)
    held_back, seed = float(held_back), int(seed)  # numpy's too
    if loop is not None:
        return adapt_as_firmware(net, stages, samples, loop, held_back, seed, source)
    run = _Run(samples, held_back, seed)
    stages = [stage.for_labels(len(samples.x)) for stage in stages]
    state, results, taken = copy.deepcopy(net).eval(), [], []
    _check_classes(state, samples)
    before_learning, learned = state, False
    for stage in stages:
        state, result, choice = run.try_stage(state, stage, learned)
        results.append(result)
        if choice is not None:
            taken.append(choice)
            learned = learned or stage.learns
            before_learning = before_learning if learned else state
    if refit and learned and held_back > 0:
        first = next(i for i, stage in enumerate(taken) if stage.learns)
        state, why = run.try_again(before_learning, taken[first:], state)
        if why:
            last = max(i for i, result in enumerate(results) if result.kept)
            results[last] = replace(results[last], note=f"{AGAIN}: {why}")
    return Adaptation(state, results)


def _check(net: nn.Module, stages: list[Stage], samples: Samples, held_back: float, seed: int, all_normal: bool) -> None:
    if not isinstance(net, nn.Module):
        raise LightningFwdError(f"adapt got {type(net).__name__} for a network", "", "give a torch.nn.Module")
    fault = seed_fault(seed) if isinstance(seed, Integral) else "give a whole number"
    if fault:
        raise LightningFwdError(f"adapt: seed={seed!r}", "", fault)
    require_counts(0 if samples.y is None else len(samples.x), len(samples.inputs), held_back)
    if not bool(torch.isfinite(samples.inputs).all()):
        raise LightningFwdError(
            "adapt: samples that are not finite", "nothing could be learned from them, nor judged", "look for bad values"
        )
    if samples.y is not None and int(samples.y.min()) < 0:
        raise LightningFwdError(f"adapt: labels from {samples.y.min():g}", "they are class indices", "count from 0")
    if all_normal and samples.y is not None:
        raise LightningFwdError("adapt: labels for a network that reconstructs", "all its samples are normal", "give x alone")
    if not all_normal:
        require_labels(stages, 0 if samples.y is None else len(samples.x))
    if held_back == 0 and (unsaid := [stage.name for stage in stages if stage.is_open and (stage.learns or samples.y is not None)]):
        raise LightningFwdError(
            f"stage {unsaid[0]} leaves a choice open and held_back is 0", "nothing judges what is best", "give one rate and all settings"
        )


@torch.no_grad()
def _check_classes(net: nn.Module, samples: Samples) -> None:
    name, x = type(net).__name__, samples.x[:2]
    try:
        logits = net(x)
    except Exception as error:
        what = f"adapt: {name} fails on samples of shape {tuple(x.shape[1:])}, {x.dtype}"
        raise LightningFwdError(what, f"{type(error).__name__}: {error}", "give samples as the network takes them") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        gives = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise LightningFwdError(f"adapt: {name} gives {gives} for two samples", "stages learn a classifier", "it has to give logits (B, C)")
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        why = "stages learn by the cross-entropy of logits, and are judged by it"
        raise LightningFwdError(f"adapt: {name} gives probabilities", why, "let it return what enters its softmax")
    if samples.y is not None and int(samples.y.max()) >= logits.shape[1]:
        what = f"adapt: label {int(samples.y.max())}, and {name} tells {logits.shape[1]} classes apart"
        raise LightningFwdError(what, "they are class indices", "count from 0")


class _Run:
    """The samples of one adaptation, divided."""

    def __init__(self, samples: Samples, held_back: float, seed: int):
        self.samples, self.seed, self.guarded = samples, seed, samples.y is not None and held_back > 0
        self.kept = self.held = torch.arange(len(samples.x))
        if self.guarded:
            self.kept, self.held = split(samples.y, held_back, seed)

    def all_for(self, stage: Stage) -> tuple[Tensor, Tensor | None]:
        """All samples that a stage can learn from."""
        return (self.samples.x, self.samples.y) if stage.reads_labels else (self.samples.inputs, None)

    def try_stage(self, state: nn.Module, stage: Stage, learned: bool) -> tuple[nn.Module, StageResult, Stage | None]:
        """``(network, what became of the stage, the candidate taken or None)``."""
        judges = self.held if stage.learns or learned else torch.arange(len(self.samples.x))
        x, y = self.samples.x[judges], None if self.samples.y is None else self.samples.y[judges]
        before = judge(state, x, y)
        best, diverged = None, []
        for candidate, net, why in self._candidates(state, stage):
            after = None if net is None else judge(net, x, y)
            if after is None or after.loss == float("inf"):
                diverged.append(why or "its loss is not finite")
                continue
            harm = after.against(before) if self.guarded else ""
            if self.guarded and not stage.learns:
                harm = harm or after.chance(before)
            if best is None or (bool(harm), after.loss) < (bool(best[0]), best[1]):  # of those that do no harm the lowest loss
                best = harm, after.loss, candidate, net
        if best is None:
            return state, StageResult(stage.name, False, "", before.loss, float("inf"), len(judges), diverged[0]), None
        harm, loss, choice, net = best
        result = StageResult(stage.name, not harm, stage.choice(choice), before.loss, loss, len(judges), harm)
        if harm:
            return state, result, None
        return net, result if self.guarded else replace(result, note="not guarded: no labels are held back"), choice

    def try_again(self, state: nn.Module, stages: list[Stage], tried: nn.Module) -> tuple[nn.Module, str]:
        """The stages once more, on all labelled samples.

        It has learned from all of them and so has to fit them better than ``tried``, which has not; otherwise that is kept.

        Returns:
            the network, and why it is ``tried``.
        """
        try:
            for stage in stages:
                state = train(state, stage, *self.all_for(stage), self.seed)
        except StepError as error:  # diverged
            return tried, error.what
        before, after = (judge(net, self.samples.x, self.samples.y) for net in (tried, state))
        harm = "" if after.loss == before.loss else after.against(before)
        return (tried, harm) if harm else (state, "")

    def _candidates(self, state: nn.Module, stage: Stage) -> Iterator[tuple[Stage, nn.Module | None, str]]:
        x, y = self.all_for(stage)
        if stage.learns and self.guarded:
            x, y = x[self.kept], y[self.kept]
        for candidate in stage.candidates():
            try:
                yield candidate, train(state, candidate, x, y, self.seed), ""
            except StepError as error:  # diverged
                yield candidate, None, error.what
