"""Peak memory of a step by liveness: what is alive at each moment, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from ..graph.constants import COUNTER
from ..trace.optimizers import is_optimizer_state
from ..trace.step_graph import StepGraph
from ..trace.values import Value, base_of, gradient_values, is_view, makes_nothing, operands_read, runs_with, tensors_of
from .widths import Widths

RAM_CATEGORIES = (
    "weights", "master weights", "heads", "statistics", "optimizer state", "counter", "corrections",  # resident for the whole step
    "input", "activations", "deltas", "gradients", "new weights", "feedback", "label embedding", "loss", "scratch",
)  # fmt: skip
FLASH_CATEGORIES = ("frozen weights", "initial weights", "feedback matrix", "constants", "corrections")


@dataclass(frozen=True)
class Buffer:
    """Memory that holds one value (and its views) from the node that makes it to the last one that reads it.

    Attributes:
        name: of the node; category: one of :data:`RAM_CATEGORIES`; layer: of the node.
        bytes: its size.
        born, dies: indices of the first and last node, counting calls from 0; resident buffers have born = -1.
    """

    name: str
    category: str
    layer: str
    bytes: int
    born: int
    dies: int


@dataclass(frozen=True)
class MemoryPlan:
    """All buffers of a step, and the sum of those alive at each node.

    Attributes:
        buffers: in order of birth, resident ones first.
        moments: nodes that compute, in order: (name, phase, layer).
        timeline: bytes alive while each of them runs, resident ones included.
        flash: constant bytes by category.
    """

    buffers: tuple[Buffer, ...]
    moments: tuple[tuple[str, str, str], ...]
    timeline: tuple[int, ...]
    flash: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return max(self.timeline)

    @property
    def peak_index(self) -> int:
        return self.timeline.index(self.peak_bytes)

    def alive(self, index: int) -> list[Buffer]:
        """Buffers alive while node ``index`` runs, largest first."""
        return sorted((b for b in self.buffers if b.born <= index <= b.dies), key=lambda b: -b.bytes)

    def with_resident(self, category: str, ram: int, flash: int) -> MemoryPlan:
        """The plan beside so many more bytes of a category that live throughout, in RAM and in Flash."""
        more = Buffer(category, category, "", ram, -1, len(self.moments))
        flashed = self.flash | {category: self.flash.get(category, 0) + flash}
        return replace(self, buffers=(more, *self.buffers), timeline=tuple(t + ram for t in self.timeline), flash=flashed)

    def by_category(self, index: int | None = None) -> dict[str, int]:
        """Bytes by category at a moment, by default the peak."""
        totals = dict.fromkeys(RAM_CATEGORIES, 0)
        for buffer in self.alive(self.peak_index if index is None else index):
            totals[buffer.category] += buffer.bytes
        return totals


def plan_memory(step: StepGraph, widths: Widths, copied_views: frozenset = frozenset(), resident: bool = True) -> MemoryPlan:
    """Lay a step's values out in time.

    Args:
        copied_views: view operations that the runtime at hand materialises (``aten.permute``, ...).
        resident: state that the step writes lives in RAM throughout and what it only reads in Flash; with False everything that comes in is
            an ordinary value, as in a runtime that is handed weights and hands new ones back.
    """
    nodes = [n for n in step.graph.nodes if n.op == "call_function"]
    index = {node: i for i, node in enumerate(nodes)}
    states, mutated = {node: name for name, node in step.state.items()}, set(step.mutated)
    classify = _Classifier(step)
    resident_buffers, flash = [], dict.fromkeys(FLASH_CATEGORIES, 0)
    last_use: dict[Value, int] = {}
    homes: dict[Value, Value] = {}
    for node in step.graph.nodes:
        for read in operands_read(node):
            home = _home(read, copied_views, homes)
            last_use[home] = len(nodes) - 1 if node.op == "output" else index[runs_with(node)]
        if "in_place_of" in node.meta:
            homes[node, 0] = _home(node.meta["in_place_of"], copied_views, homes)
    values: list[Buffer] = []
    for node in step.graph.nodes:
        if node.op == "placeholder" and node.name in states and resident:
            name = states[node.name]
            if name in mutated:
                resident_buffers.append(Buffer(name, classify.state(name), node.meta["layer"], widths.bytes(node), -1, len(nodes)))
                if master := widths.master_bytes(name) if name in step.trained else 0:
                    resident_buffers.append(Buffer(name, "master weights", node.meta["layer"], master, -1, len(nodes)))
            flash[classify.constant(name, name in mutated)] += 0 if is_optimizer_state(name) else widths.bytes(node)
        elif node.op == "placeholder":
            born = 0
            values.append(
                Buffer(
                    states.get(node.name, node.name),
                    "input",
                    node.meta["layer"],
                    widths.bytes(node),
                    born,
                    last_use.get((node, 0), 0),
                )
            )
        elif node.op == "call_function" and (not makes_nothing(node) or _copies(node, copied_views)):
            for output in range(len(tensors_of(node))):
                size = widths.bytes(node, output)
                if size and (node, output) not in homes and "streamed" not in node.meta:
                    category, born = classify.value(node, output), index[node]
                    values.append(Buffer(node.name, category, node.meta["layer"], size, born, last_use.get((node, output), born)))
            if scratch := node.meta.get("scratch") or im2col_bytes(node, widths):
                values.append(Buffer(node.name, "scratch", node.meta["layer"], scratch, index[node], index[node]))

    return _plan(nodes, resident_buffers, values, flash)


def _plan(nodes: list[fx.Node], resident: list[Buffer], values: list[Buffer], flash: dict[str, int]) -> MemoryPlan:
    change = [0] * (len(nodes) + 1)
    for buffer in values:
        change[buffer.born] += buffer.bytes
        change[buffer.dies + 1] -= buffer.bytes
    alive, timeline = sum(b.bytes for b in resident), []
    for delta in change[:-1]:
        alive += delta
        timeline.append(alive)
    moments = tuple((n.name, n.meta["phase"], n.meta["layer"]) for n in nodes)
    return MemoryPlan((*resident, *values), moments, tuple(timeline), flash)


def _copies(node: fx.Node, copied_views: frozenset) -> bool:
    return is_view(node) and node.target.overloadpacket in copied_views


def _home(node: fx.Node, copied_views: frozenset, homes: dict[Value, Value]) -> Value:
    """The value in whose memory a node's value lies, operations in place followed."""
    value = base_of(node, lambda n: is_view(n) and not _copies(n, copied_views))
    return homes.get(value, value)


def im2col_bytes(node: fx.Node, widths: Widths) -> int:
    """Scratch of an int8 convolution: two columns of int16, as integer kernels for Cortex-M unroll them (none for 1x1 and depthwise)."""
    if node.target is not torch.ops.aten.convolution.default or widths.arithmetic(node) != "int8":
        return 0
    kernel = node.args[1].meta["val"].shape[1:]
    return 2 * 2 * kernel.numel() if kernel[0] > 1 and kernel[1:].numel() > 1 else 0


class _Classifier:
    """Says what each value of a step is for."""

    def __init__(self, step: StepGraph):
        self.step, self.gradients, self.trained = step, gradient_values(step), set(step.trained)
        self.new_state = {base_of(node): name for name, node in step.results.items() if name in step.state}

    def state(self, name: str) -> str:
        """Category of a tensor that the step writes."""
        if is_optimizer_state(name):
            return "optimizer state"
        if name == COUNTER:
            return "counter"
        return self.step.category(name, "state") or ("weights" if name in self.trained else "statistics")

    def constant(self, name: str, mutated: bool) -> str:
        """Category in Flash of a tensor's initial or constant value."""
        category = self.step.category(name, "constants") or "frozen weights"
        return "initial weights" if mutated and category in ("constants", "frozen weights") else category

    def value(self, node: fx.Node, output: int) -> str:
        """Category of a value that the step makes."""
        phase, layer = node.meta["phase"], node.meta["layer"]
        if (node, output) in self.new_state:
            return "new weights"
        if (node, output) in self.gradients:
            return "gradients"
        if phase in ("forward", "second_forward", "goodness", "normalisation"):
            return self.step.category(layer, "values") or "activations"
        return {"error": "loss", "projection": "feedback"}.get(phase, "deltas")


def timeline_by_category(plan: MemoryPlan) -> Iterator[tuple[str, list[int]]]:
    """Bytes of each category at each moment, for a plot; categories that never occur are left out."""
    for category in RAM_CATEGORIES:
        buffers = [b for b in plan.buffers if b.category == category]
        if buffers:
            change = [0] * (len(plan.timeline) + 1)
            for b in buffers:
                change[max(b.born, 0)] += b.bytes
                change[min(b.dies + 1, len(plan.timeline))] -= b.bytes
            total, line = 0, []
            for delta in change[:-1]:
                total += delta
                line.append(total)
            yield category, line
