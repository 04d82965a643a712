"""Rows of a comparison that adapt in stages: prepared at home, run and guarded, priced as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..adaptation import Adaptation, Stage, adapt, adaptation_cost
from ..models import build
from .scenario import Row, Scenario

BACK = "rolled back: "  #: begins a note of what the guard took back


def prepared(row: Row, network: torch.nn.Module, source: Any, weights: Path) -> list[Stage]:
    """The row's stages with what their rules take along of the source, written beside the weights that it belongs to."""
    return [stage.prepared(network, source, weights) for stage in row.adaptation()]


def run_stages(row: Row, network: torch.nn.Module, source: Any, target: Any, weights: Path, seed: int) -> Adaptation:
    """The row's adaptation on the target's training samples."""
    return adapt(network, prepared(row, network, source, weights), target.tensors("train"), seed=seed)


def said_of(adaptation: Adaptation) -> str:
    """What the guard rolled back, for the table's notes."""
    back = [f"{stage.name} ({stage.note})" for stage in adaptation.stages if not stage.kept]
    return f"{BACK}{', '.join(back)}" if back else ""


def price_stages(scenario: Scenario, row: Row, weights: Path) -> dict[str, Any]:
    """Cost fields of a result: the largest peak of any stage, the dearest step's operations, and the work of all in the note."""
    source = scenario.data_module(scenario.seeds[0], "source")
    x = scenario.data_module(scenario.seeds[0], "target").tensors("train")[0][: scenario.cost_batch]
    network = build(scenario.model, **scenario.model_args)
    stages = prepared(row, network, source, weights)
    cost = adaptation_cost(network, stages, x, scenario.adapt_samples, device=scenario.device, width=scenario.width)
    step = cost.dearest_step
    return dict(
        macs_per_step=step.total_macs, peak_ram_bytes=cost.peak_ram_bytes, weight_bytes=step.weight_bytes, flash_bytes=cost.flash_bytes,
        device_ms_per_step=1e3 * step.latency_s,
        note=f"in all {cost.macs / 1e9:.1f} GMAC, {cost.macs / cost.inference_macs:,.0f} inferences",
    )  # fmt: skip
