"""Draw what is alive when: memory over one step, stacked by category, with the peak marked."""

from __future__ import annotations

from pathlib import Path

from ..errors import LightningFwdError
from .memory import timeline_by_category
from .report import CostReport


def plot_memory(report: CostReport, path: str | Path) -> None:
    """Write a picture (format by the ending: .png, .svg, .pdf) of the memory over one step.

    Raises:
        LightningFwdError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LightningFwdError("plotting needs matplotlib", str(error), 'pip install "lightning_fwd[plots]"') from error
    plan = report.plan
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    names, lines = zip(*timeline_by_category(plan), strict=True)
    kilobytes = [[size / 1000 for size in line] for line in lines]
    axes.stackplot(range(len(plan.timeline)), kilobytes, labels=names, step="post", linewidth=0)
    axes.axvline(plan.peak_index, color="black", linewidth=0.8)
    late = plan.peak_index > len(plan.timeline) / 2
    axes.annotate(
        f"peak {report.peak_ram_bytes:,} B\n{report.peak_moment}",
        (plan.peak_index, report.peak_ram_bytes / 1000),
        xytext=(-6 if late else 6, 4),
        textcoords="offset points",
        ha="right" if late else "left",
    )
    starts = [0] + [i for i in range(1, len(plan.moments)) if plan.moments[i][1] != plan.moments[i - 1][1]]
    wide = [s for s, end in zip(starts, [*starts[1:], len(plan.moments)], strict=True) if end - s > len(plan.moments) / 25]
    axes.set_xticks(wide, [plan.moments[s][1] for s in wide], rotation=30, ha="left", fontsize=8)
    axes.set(ylabel="kB alive", xlim=(0, len(plan.timeline)), ylim=(0, report.peak_ram_bytes * 1.15 / 1000))
    axes.set_title(f"{report.method.partition('(')[0]} on {report.model}, batch {report.batch_size}, {report.width}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise LightningFwdError(f"cannot write the plot {path}", str(error), "give a writable path that ends in .png or .svg") from error
