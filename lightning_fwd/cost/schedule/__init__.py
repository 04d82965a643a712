"""Passes over a step graph that lower its peak memory and leave its numbers as they are.

Each takes a :class:`StepGraph` and gives a new one. What a node may write over is recorded as ``meta["in_place_of"]`` (a node), what need not be
stored as ``meta["streamed"]``: the graph stays a pure function, and the planner, the exporter or a kernel may use the permission.
"""

from __future__ import annotations

from collections.abc import Callable

from ..memory import MemoryPlan, plan_memory
from ..step_graph import StepGraph
from ..widths import Widths
from .apply_updates import apply_updates_at_once
from .recompute_cheap import recompute_cheap
from .reorder import reorder
from .split_convolution_backward import split_convolution_backward
from .stream_gradients import stream_gradients
from .write_in_place import write_in_place

PASSES: tuple[tuple[str, Callable[[StepGraph, Widths], StepGraph]], ...] = (
    # each layer's gradients and errors become nodes of their own, which the passes below move
    ("convolution backward in parts", lambda step, _: split_convolution_backward(step)),
    # needs gradients that end at different times; gives the updates that gradients are streamed into
    ("updates applied at once, in place", lambda step, _: apply_updates_at_once(step)),
    ("weight gradients streamed into the update", lambda step, _: stream_gradients(step)),
    # keeps what updates wait for, and streamed gradients beside their update
    ("reordered", reorder),
    # last: what may be written over depends on the order
    ("elementwise in place", lambda step, _: write_in_place(step)),
)


def schedule(step: StepGraph, width: str, recompute: bool = False) -> tuple[StepGraph, list[tuple[str, MemoryPlan]]]:
    """Run all passes.

    Args:
        recompute: also :func:`recompute_cheap`, which trades operations for memory.

    Returns:
        the scheduled step, and the memory plan as traced and after each pass; a pass that would raise the peak is not kept.
    """
    passes = [("recomputed", lambda step, _: recompute_cheap(step))] if recompute else []
    plans = [("as traced", plan_memory(step, Widths(step, width)))]
    for name, transform in [*passes, *PASSES]:
        candidate = transform(step, Widths(step, width))
        plan = plan_memory(candidate, Widths(candidate, width))
        if plan.peak_bytes <= plans[-1][1].peak_bytes:
            step = candidate
        else:
            plan = plans[-1][1]
        plans.append((name, plan))
    return step, plans


__all__ = [
    "PASSES",
    "apply_updates_at_once",
    "recompute_cheap",
    "reorder",
    "schedule",
    "split_convolution_backward",
    "stream_gradients",
    "write_in_place",
]
