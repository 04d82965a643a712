"""What one training step costs: the step graph, priced."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import StepError
from ..graph.rewritten import RewrittenModel
from ..methods import REFERENCE, LearningMethod, rewrite
from ..trace.optimizers import Optimizer
from ..trace.step_graph import StepGraph, trace_step
from .device import Device, load_device
from .memory import plan_memory
from .operations import Operation, operations
from .report import CostLine, CostReport
from .schedule import schedule
from .widths import LOWERED, Widths, check_width

NOT_COUNTED = (
    "program code, stack and the runtime's own tables",
    "sensor data on their way into the input buffer, and preprocessing",
    "alignment and fragmentation of buffers (a planner adds them)",
    "instructions beside arithmetic: addresses, loops, cache misses",
)


def step_cost(
    model: nn.Module,
    example_batch: Tensor | tuple[Tensor, Tensor],
    device: str | Path | Device | None = None,
    width: str = "fp32",
    *,
    method: LearningMethod | str = REFERENCE,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: str | Optimizer = "sgd",
    momentum: float = 0.0,
    scheduled: bool = True,
    recompute: bool = False,
) -> CostReport:
    """Price one training step from its graph, without running it.

    Args:
        model: a rewritten model, or a plain one (``method`` says by which rule it learns; it is copied, not changed).
        example_batch: input ``(B, ...)`` and target ``(B,)``, or the input alone; the batch size counts, the values do not.
        device: name of a profile, path of a YAML file, or a :class:`Device`; adds latency, energy and the verdict.
        width: ``"fp32"``, ``"int8"`` or ``"mixed"``, see :class:`lightning_fwd.cost.widths.Widths`.
        optimizer, momentum: ``"sgd"`` or ``"adam"``, or one of :mod:`lightning_fwd.trace.optimizers` with settings of its own.
        scheduled: price the step as a device would run it (updates at once, in place, reordered); False prices it as traced.
        recompute: also trade operations for memory, see :func:`lightning_fwd.cost.schedule.recompute_cheap`.

    Raises:
        RewriteError, StepError: the rule does not fit the model or the batch, or a name is unknown.
        LightningFwdError: the device has no figures for this width.
    """
    if width == LOWERED:
        raise StepError("width='integer' of a float step", "it has to be lowered first", "call lightning_fwd.integer.integer_cost")
    device = device_for(device, width)  # before the work
    if isinstance(example_batch, Tensor):
        example_batch = (
            example_batch,
            torch.zeros(example_batch.shape[:1], dtype=torch.int64, device=example_batch.device),
        )
    if not isinstance(model, RewrittenModel):
        model = rewrite(copy.deepcopy(model), method, example_batch[0])
    step = trace_step(model, example_batch, loss=loss, optimizer=optimizer, momentum=momentum)
    name = optimizer if isinstance(optimizer, str) else optimizer.name
    return price(step, model, device, width, optimizer=name, scheduled=scheduled, recompute=recompute)


def device_for(device: str | Path | Device | None, width: str) -> Device | None:
    """The device, loaded, with figures for a width.

    Raises:
        StepError: unknown width.
        LightningFwdError: unknown device or faulty profile, or it has no figures for this width (``mixed`` trains in fp32).
    """
    check_width(width)
    if device is None:
        return None
    device = device if isinstance(device, Device) else load_device(device)
    device.phases("cycles_per_mac", "int8" if width in ("int8", LOWERED) else "fp32")
    return device


def price(
    step: StepGraph,
    model: RewrittenModel,
    device: str | Path | Device | None = None,
    width: str = "fp32",
    *,
    optimizer: str = "sgd",
    scheduled: bool = True,
    recompute: bool = False,
) -> CostReport:
    """Price a traced step; arguments as for :func:`step_cost`."""
    device = device_for(device, width)
    if scheduled:
        step, plans = schedule(step, width, recompute)
    else:
        plans = [("as traced", plan_memory(step, Widths(step, width)))]
    priced, plan = list(operations(step, Widths(step, width))), plans[-1][1]
    parameters = {n: p.numel() for n, p in model.named_parameters()}
    trained = sum(step.learning_entries(n) for n in step.gradients)
    report = CostReport(
        model=type(model.original).__name__,
        method=repr(model.method),
        batch_size=step.node("input").meta["val"].shape[0],
        width=width,
        optimizer=optimizer,
        lines=_lines(priced),
        macs_by_arithmetic=_by_arithmetic(priced),
        macs_without_constants=_by_arithmetic([op for op in priced if not op.constant_weights]),
        parameters_trained=trained,
        parameters_frozen=sum(parameters.values()) - trained,
        weight_bytes=_weight_bytes(model, step, width),
        plan=plan,
        savings=tuple((name, p.peak_bytes) for name, p in plans),
        not_counted=_not_counted(priced, model),
    )
    return report if device is None else report.on(device)


def _lines(priced: list[Operation]) -> tuple[CostLine, ...]:
    """One line per phase and layer, in order of first execution."""
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for op in priced:
        total = totals[op.phase, op.layer]
        for i, value in enumerate((op.macs, op.elementwise, op.read_bytes, op.written_bytes)):
            total[i] += value
    return tuple(CostLine(phase, layer, *total) for (phase, layer), total in totals.items())


def _by_arithmetic(priced: list[Operation]) -> dict[str, dict[str, int]]:
    macs: dict[str, dict[str, int]] = {}
    for op in priced:
        phases = macs.setdefault(op.arithmetic, {})
        phases[op.phase] = phases.get(op.phase, 0) + op.macs
    return macs


def _weight_bytes(model: RewrittenModel, step: StepGraph, width: str) -> int:
    """Bytes of all parameters at this width, trained or not, masters left out."""
    widths = Widths(step, width)
    return sum(widths.bytes(step.node(name)) for name, _ in model.named_parameters() if name in step.state)


def _not_counted(priced: list[Operation], model: RewrittenModel) -> tuple[str, ...]:
    guessed = sorted({op.node.rstrip("_0123456789") for op in priced if op.assumed})
    notes = [f"{name}: taken as one operation per output element" for name in guessed]
    notes += [f"{path}: kept whole in the captured graph ({reason})" for path, reason in model.opaque.items()]
    return (*notes, *NOT_COUNTED)
