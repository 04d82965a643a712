"""An adaptation priced as one: the peak of its dearest stage, the sum of its work."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cost import CostReport, price, step_cost, trace_inference
from ..cost.device import Device
from ..graph.rewritten import RewrittenModel
from ..methods import rewrite
from ..passes import map_input
from .guard import require_counts
from .stage import Stage, as_stages, require_labels

Report = tuple[CostReport, int, dict[str, int]]  #: of a kind of step: its cost, the samples it sees (0: all), what is needed beside it


@dataclass(frozen=True)
class StageCost:
    """One stage.

    Attributes:
        name: of the stage. step: its dearest step, by peak RAM.
        peak_ram_bytes: of its steps and of what is done between them. flash_bytes: of the step, and of what ships with the weights for this
            stage.
        macs: of all its steps, over all candidates and the run that takes all samples, and of the inferences that judge.
        rollback_bytes: of what it changes, which is kept as it was until the stage is judged.
    """

    name: str
    step: CostReport
    peak_ram_bytes: int
    flash_bytes: int
    macs: int
    rollback_bytes: int


@dataclass(frozen=True)
class AdaptationCost:
    """All stages on one device.

    Attributes:
        stages: in order. inference_macs: of one prediction.
    """

    stages: list[StageCost]
    inference_macs: int

    @property
    def peak_ram_bytes(self) -> int:
        """The dearest stage's: nothing but weights lives on between stages."""
        return max(stage.peak_ram_bytes for stage in self.stages)

    @property
    def flash_bytes(self) -> int:
        """Of the stage that needs most beside the weights, and the largest copy that is kept to go back to."""
        return max(stage.flash_bytes for stage in self.stages) + max(stage.rollback_bytes for stage in self.stages)

    @property
    def macs(self) -> int:
        return sum(stage.macs for stage in self.stages)

    def __str__(self) -> str:
        stages = [f"{s.name}: peak {s.peak_ram_bytes / 1024:,.1f} KiB RAM, {s.macs / 1e6:,.0f} MMAC in all" for s in self.stages]
        whole = (
            f"as one: peak {self.peak_ram_bytes / 1024:,.1f} KiB RAM, {self.flash_bytes / 1024:,.1f} KiB flash, {self.macs / 1e6:,.0f} MMAC"
        )
        return "\n".join([*stages, f"{whole} (as many as {self.macs / self.inference_macs:,.0f} inferences)"])

    @property
    def dearest_step(self) -> CostReport:
        """The step with the most operations of any stage."""
        return max((stage.step for stage in self.stages), key=lambda step: step.total_macs)


def adaptation_cost(
    net: nn.Module,
    stages: Any,
    example: Tensor,
    labelled: int,
    unlabelled: int = 0,
    held_back: float = 1 / 3,
    device: str | Path | Device | None = None,
    width: str = "fp32",
    known: dict | None = None,
) -> AdaptationCost:
    """Price an adaptation as :func:`adapt` runs it, from its graphs, without running it.

    Features that a stage could keep are made anew in every step, as on a device that has no room for them.

    Args:
        net: the network; not changed. example: a batch ``(B, ...)``; its size counts.
        labelled, unlabelled: how many samples of each kind the adaptation has. held_back: as in :func:`adapt`.
        known: what was priced before of the same network, example, device and width; read and added to. Adaptations that share stages then
            cost their own part of the time only.

    Raises:
        LightningFwdError: so many samples do not suffice, or a stage learns from labels and there are none.
        RewriteError, StepError: a rule does not fit the network, or cannot be priced at this batch.
    """
    net, costs, stages = copy.deepcopy(net).eval(), [], as_stages(stages)
    require_counts(labelled, labelled + unlabelled, held_back)
    require_labels(stages, labelled)
    stages = [stage.for_labels(max(1, labelled)) for stage in stages]
    two, known = torch.cat([example, example]), {} if known is None else known
    mapped = stages[0].input == "mapped"
    if (mapped, "inference") not in known:  # every stage predicts by the network's own layers: one rule will do
        known[mapped, "inference"] = _inference(map_input(copy.deepcopy(net), two) if mapped else net, stages[0], example, width)
    inference = known[mapped, "inference"]
    held, learned, last = round(held_back * labelled), False, stages[-1]
    layers: tuple = ()
    for stage in stages:
        if stage.adds_layers:
            net, layers = stage.network(net, two), (*layers, (stage.input, stage.head))
        learned = learned or stage.learns
        judging = inference * (held if learned else labelled or unlabelled)
        macs, peak, flash, changed, dearest, most = judging, 0, 0, 0, None, 0  # judged without the stage, then with each candidate
        for candidate in stage.candidates():
            rule = layers, repr((candidate.method, candidate.momentum, candidate.freeze))  # at another rate a step costs the same
            if rule not in known:
                known[rule] = _reports(net, candidate, example, device, width), _changed(net, candidate, example)
            reports, written = known[rule]
            changed = max(changed, written)
            macs += _work(candidate, reports, labelled - held, labelled + unlabelled, len(example)) + judging
            most = max(most, _work(candidate, reports, labelled, labelled + unlabelled, len(example)))
            for report, _, beside in reports:
                peak = max(peak, report.peak_ram_bytes, beside.get("ram", 0))
                flash = max(flash, report.flash_bytes + beside.get("flash", 0))
                dearest = report if dearest is None or report.peak_ram_bytes > dearest.peak_ram_bytes else dearest
        if learned and held:  # the last run, by the candidate of most work; label-free stages behind a learning one take part
            macs += most
            if stage is last:  # held against what was judged, on all labels
                macs += 2 * labelled * inference
        costs.append(StageCost(stage.name, dearest, peak, flash, macs, changed))
    return AdaptationCost(costs, inference)


def _work(stage: Stage, reports: list[Report], labelled: int, inputs: int, batch: int) -> int:
    """MAC of all steps of a candidate on so many samples."""
    samples = (stage.epochs or stage.default_epochs) * (labelled if stage.reads_labels else inputs)
    return sum(math.ceil((seen or samples) / batch) * report.total_macs for report, seen, _ in reports)


def _rewritten(net: nn.Module, stage: Stage, example: Tensor) -> RewrittenModel:
    """A copy of the network under a stage's rule, what the stage freezes frozen."""
    own = copy.deepcopy(net)
    for path in stage.freeze:
        own.get_submodule(path).requires_grad_(False)
    return rewrite(own, stage.method, torch.cat([example, example]))


def _reports(net: nn.Module, stage: Stage, example: Tensor, device: Any, width: str) -> list[Report]:
    """The cost of each kind of step that a rule takes, the samples they see (0: all), and what it needs beside them."""
    model = _rewritten(net, stage, example)
    batch = example, torch.zeros(len(example), dtype=torch.int64)
    beside = stage.method.beside_the_step(model)
    return [(step_cost(model, batch, device, width, momentum=stage.momentum), n, beside) for n in stage.method.stages(model)]


def _inference(net: nn.Module, stage: Stage, example: Tensor, width: str) -> int:
    """MAC of one sample's prediction; every stage predicts by the network's own layers."""
    model = rewrite(copy.deepcopy(net), next(stage.candidates()).method, torch.cat([example, example]))
    return price(trace_inference(model, example), model, width=width).total_macs // len(example)


def _changed(net: nn.Module, stage: Stage, example: Tensor) -> int:
    """Bytes (fp32) of what a stage writes: trained parameters, or for a rule without gradients everything that it may set."""
    model = _rewritten(net, stage, example)
    if stage.learns:
        parts = [(p, model.part_of(n)) for n, p in model.named_parameters() if p.requires_grad]
        return sum(4 * (p.numel() if part is None else part.of(p).numel()) for p, part in parts)
    norms = [m for m in model.original.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return 4 * sum(2 * m.num_features for m in norms) + model.method.beside_the_step(model).get("written", 0)
