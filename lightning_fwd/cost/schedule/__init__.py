"""Passes over a step graph that lower its peak memory and leave its numbers as they are.

Each takes a :class:`StepGraph` and gives a new one. What a node may write over is recorded as ``meta["in_place_of"]`` (a node), what need
not be stored as ``meta["streamed"]``: the graph stays a pure function, and the planner, the exporter or a kernel may use the permission.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...trace.step_graph import StepGraph
from ..memory import MemoryPlan, plan_memory
from ..widths import Widths
from .apply_updates import apply_updates_at_once
from .fuse_elementwise import fuse_elementwise
from .part_shared_gradients import has_shared_gradients, part_shared_gradients
from .recompute_cheap import recompute_cheap
from .reorder import reorder
from .split_convolution_backward import split_convolution_backward
from .stream_gradients import stream_gradients
from .write_in_place import write_in_place

Pass = Callable[[StepGraph, Widths], StepGraph]
_SHARED = "shared weights stepped by each gradient"
PASSES: tuple[tuple[str, Pass], ...] = (
    # each layer's gradients and errors become nodes of their own, which the passes below move
    ("convolution backward in parts", lambda step, _: split_convolution_backward(step)),
    # only of steps that have such weights; the updates below are of its parts
    (_SHARED, lambda step, _: part_shared_gradients(step)),
    # needs gradients that end at different times; gives the updates that gradients are streamed into
    ("updates applied at once, in place", lambda step, _: apply_updates_at_once(step)),
    ("weight gradients streamed into the update", lambda step, _: stream_gradients(step)),
    ("elementwise operations in one loop", lambda step, _: fuse_elementwise(step)),
    # keeps what updates wait for, and streamed values beside their reader
    ("reordered", reorder),
    # last: what may be written over depends on the order
    ("elementwise in place", lambda step, _: write_in_place(step)),
)

# pieces in an order that is good one by one need not be good together: each of these is tried with and without
_MAY_RAISE_THE_PEAK = (
    "convolution backward in parts",
    # where they cannot be streamed, all gradients wait for the last reader of the weight
    _SHARED,
    # streamed, a weight's update waits for the error that is made with the old weight, and the layer's input waits with it
    "weight gradients streamed into the update",
    "elementwise operations in one loop",
    "reordered",
)


def schedule(step: StepGraph, width: str, recompute: bool = False) -> tuple[StepGraph, list[tuple[str, MemoryPlan]]]:
    """Run all passes.

    Args:
        recompute: also :func:`recompute_cheap`, which trades operations for memory.

    Returns:
        the scheduled step, and the memory plan as traced and after each pass. A pass may prepare the ground for a later one and save
        nothing itself; one without which the peak ends lower is left out, or the two that change the order. The peak is never above that as
        traced.
    """
    first = [("recomputed", lambda step, _: recompute_cheap(step))] if recompute else []
    done: dict[tuple[str, ...], tuple[StepGraph, MemoryPlan]] = {(): (step, plan_memory(step, Widths(step, width)))}

    def run(passes: Sequence[tuple[str, Pass]]) -> tuple[StepGraph, list[tuple[str, MemoryPlan]]]:
        names, (now, plan) = (), done[()]
        plans = [("as traced", plan)]
        for name, transform in passes:
            if (*names, name) not in done:  # runs begin alike
                now = transform(now, Widths(now, width))
                done[*names, name] = now, plan_memory(now, Widths(now, width))
            names = (*names, name)
            now, plan = done[names]
            plans.append((name, plan))
        return now, plans

    passes = [p for p in PASSES if p[0] != _SHARED or has_shared_gradients(step)]
    may_raise = [name for name, _ in passes if name in _MAY_RAISE_THE_PEAK]
    left_out = ((), *((name,) for name in may_raise), ("elementwise operations in one loop", "reordered"))
    runs = [run([*first, *(p for p in passes if p[0] not in names)]) for names in left_out] + [run([])]
    return min(runs, key=lambda result: result[1][-1][1].peak_bytes)


__all__ = [
    "PASSES",
    "apply_updates_at_once",
    "fuse_elementwise",
    "part_shared_gradients",
    "recompute_cheap",
    "reorder",
    "schedule",
    "split_convolution_backward",
    "stream_gradients",
    "write_in_place",
]
