"""The cost of a training step that calls its network several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .report import CostReport


def of_calls(calls: Sequence[tuple[CostReport, bool]]) -> CostReport:
    """One report of all calls.

    Work, time and energy are summed: of a call with gradients all that its step takes, the optimizer's operations with it, of one without
    its forward pass. Memory is that of the call that takes most.

    Args:
        calls: each as a step of its own, on one network, rule, width and device; and whether gradients follow it.
    """
    most = max((report for report, _ in calls), key=lambda report: report.peak_ram_bytes)
    if len(calls) == 1:
        return most
    left_out = f"memory that {len(calls)} calls of the network in one step keep together: it is that of one call"
    report = replace(
        most,
        lines=tuple(line for report, learns in calls for line in report.lines if learns or line.phase == "forward"),
        macs_by_arithmetic=_sum([(report.macs_by_arithmetic, learns) for report, learns in calls]),
        macs_without_constants=_sum([(report.macs_without_constants, learns) for report, learns in calls]),
        not_counted=(left_out, *most.not_counted),
    )
    return report if report.device is None else report.on(report.device)


def _sum(calls: Sequence[tuple[dict[str, dict[str, int]], bool]]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for macs, learns in calls:
        for width, phases in macs.items():
            of_width = totals.setdefault(width, {})
            for phase, count in phases.items():
                if learns or phase == "forward":
                    of_width[phase] = of_width.get(phase, 0) + count
    return totals
