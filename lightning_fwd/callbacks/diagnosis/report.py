"""What a diagnosis found, as numbers, as files, and as a picture."""

from __future__ import annotations

import csv
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rich.table import Table
from torch import Tensor

from ...errors import LightningFwdError
from ...graph.in_double import in_double


@dataclass(frozen=True)
class LayerLine:
    """One layer at one step.

    Attributes:
        cosine: between the rule's gradient and backpropagation's, all parameters of the layer as one vector; 0 where either is zero.
        angle: the same in degrees; 90 says that they have nothing in common. update_norm, backprop_norm: Euclidean norms of both.
        relative_change: distance of the weights from where they started, over their norm there.
    """

    step: int
    epoch: int
    layer: str
    cosine: float
    angle: float
    update_norm: float
    backprop_norm: float
    relative_change: float


@dataclass(frozen=True)
class GainLine:
    """Accuracy in percent of the trained network and of the control with frozen features; gain: their difference in points."""

    step: int
    epoch: int
    stage: str
    accuracy: float
    frozen_accuracy: float
    gain: float


def by_layer(gradients: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[float, float, float]]:
    """Module path to (cosine, norm of the rule's gradient, norm of backpropagation's)."""
    sums: dict[str, list[float]] = {}
    for name, (mine, theirs) in gradients.items():
        a, b = in_double(mine).flatten(), in_double(theirs).flatten()
        own = sums.setdefault(layer_of_parameter(name), [0.0, 0.0, 0.0])
        for i, product in enumerate((a @ b, a @ a, b @ b)):
            own[i] += float(product)
    return {
        layer: (dot / math.sqrt(aa * bb) if aa * bb > 0 else 0.0, math.sqrt(aa), math.sqrt(bb)) for layer, (dot, aa, bb) in sums.items()
    }


def relative_changes(now: dict[str, Tensor], start: dict[str, Tensor]) -> dict[str, float]:
    """Module path to ``|W - W_0| / |W_0|`` over all of its parameters; infinite where a layer began at zero and moved."""
    sums: dict[str, list[float]] = {}
    for name, tensor in now.items():
        own = sums.setdefault(layer_of_parameter(name), [0.0, 0.0])
        first = in_double(start[name].to(tensor.device))
        own[0] += float((in_double(tensor.detach()) - first).square().sum())
        own[1] += float(first.square().sum())
    return {layer: math.sqrt(moved / size) if size else math.inf if moved else 0.0 for layer, (moved, size) in sums.items()}


def layer_of_parameter(name: str) -> str:
    return name.rpartition(".")[0] or "(network)"


def angle(cosine: float) -> float:
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def begin(path: Path, kind: type, fresh: bool) -> None:
    """Make the file, with its header.

    Raises:
        LightningFwdError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh or not path.exists():
            path.write_text(",".join(f.name for f in fields(kind)) + "\n", encoding="utf-8")
    except OSError as error:
        raise LightningFwdError(
            f"Diagnosis cannot write {path}", str(error), "give Diagnosis(dirpath=...) a folder that you may write to"
        ) from error


def append(path: Path, lines: list[LayerLine] | list[GainLine]) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(line)] for line in lines)


def table(lines: list[LayerLine], gains: list[GainLine]) -> Table:
    """The last diagnosed step, a row per layer; the last gain below."""
    shown = Table(title=f"diagnosis, step {lines[-1].step}" if lines else "diagnosis")
    shown.add_column("layer")
    for heading in ("angle to backprop", "update / backprop", "relative change"):
        shown.add_column(heading, justify="right")
    for line in (line for line in lines if line.step == lines[-1].step):
        ratio = f"{line.update_norm / line.backprop_norm:.3g}" if line.backprop_norm else "-"
        shown.add_row(line.layer, f"{line.angle:.1f} deg" if line.update_norm else "no update", ratio, f"{line.relative_change:.2e}")
    if gains:
        last = gains[-1]
        shown.caption = f"{last.stage}: {last.accuracy:.2f} %, frozen features {last.frozen_accuracy:.2f} %, gain {last.gain:+.2f} points"
    return shown


def plot(lines: list[LayerLine], gains: list[GainLine], path: Path) -> None:
    """Angle and relative change per layer over the steps; accuracy beside the control's where it was measured."""
    from matplotlib.figure import Figure

    validated = [line for line in gains if line.stage == "val"]
    figure = Figure(figsize=(15 if validated else 10, 4), layout="constrained")
    axes = figure.subplots(1, 3 if validated else 2)
    for layer in dict.fromkeys(line.layer for line in lines):
        own = [line for line in lines if line.layer == layer]
        steps = [line.step for line in own]
        axes[0].plot(steps, [line.angle for line in own], marker=".", label=layer)
        axes[1].plot(steps, [line.relative_change for line in own], marker=".", label=layer)
    axes[0].axhline(90, color="grey", linewidth=0.8, linestyle="--")
    axes[0].set(xlabel="step", ylabel="angle to backpropagation's update (degrees)", ylim=(0, 180))
    axes[1].set(xlabel="step", ylabel="relative weight change")
    if any(0 < line.relative_change < math.inf for line in lines):
        axes[1].set_yscale("log")
    if lines:
        axes[0].legend(fontsize=7)
    if validated:
        axes[2].plot([g.epoch for g in validated], [g.accuracy for g in validated], marker=".", label="trained")
        axes[2].plot([g.epoch for g in validated], [g.frozen_accuracy for g in validated], marker=".", label="frozen features")
        axes[2].set(xlabel="epoch", ylabel="validation accuracy (%)")
        axes[2].legend(fontsize=7)
    figure.savefig(path, dpi=150)
