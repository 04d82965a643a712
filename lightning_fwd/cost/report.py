"""The cost of one step as data, as a table and as a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, Group
from rich.table import Column, Table

from .device import Device, Verdict
from .memory import Buffer, MemoryPlan


@dataclass(frozen=True)
class CostLine:
    """What one layer does in one phase: MAC, elementwise operations, bytes."""

    phase: str
    layer: str
    macs: int
    elementwise: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class CostReport:
    """What one training step costs.

    Attributes:
        model, method, batch_size, width, optimizer: what was priced.
        lines: by phase and layer, in order of execution.
        macs_by_arithmetic: MAC by ``"int8"`` / ``"fp32"`` and phase (``mixed`` has both).
        macs_without_constants: the part of them whose operands are all computed or trained, for an NPU that takes constant weights only.
        parameters_trained, parameters_frozen: counts. weight_bytes: of all parameters at this width.
        plan: every buffer with its lifetime; the peak and its moment.
        savings: peak bytes as traced and after each scheduling pass.
        not_counted: what these figures leave out.
        device, latency_s, energy_j, verdict: with a device only. Latency is that of the MACs, a lower bound. energy_j is an estimate, or
            None.
    """

    model: str
    method: str
    batch_size: int
    width: str
    optimizer: str
    lines: tuple[CostLine, ...]
    macs_by_arithmetic: dict[str, dict[str, int]]
    macs_without_constants: dict[str, dict[str, int]]
    parameters_trained: int
    parameters_frozen: int
    weight_bytes: int
    plan: MemoryPlan
    savings: tuple[tuple[str, int], ...]
    not_counted: tuple[str, ...]
    device: Device | None = None
    latency_s: float | None = None
    energy_j: float | None = None
    verdict: Verdict | None = None

    @property
    def total_macs(self) -> int:
        return sum(line.macs for line in self.lines)

    @property
    def total_elementwise(self) -> int:
        return sum(line.elementwise for line in self.lines)

    @property
    def macs_by_phase(self) -> dict[str, int]:
        return _sum_by(self.lines, "phase", "macs")

    @property
    def macs_by_layer(self) -> dict[str, int]:
        return _sum_by(self.lines, "layer", "macs")

    @property
    def elementwise_by_phase(self) -> dict[str, int]:
        return _sum_by(self.lines, "phase", "elementwise")

    @property
    def peak_ram_bytes(self) -> int:
        return self.plan.peak_bytes

    @property
    def ram_bytes_by_category(self) -> dict[str, int]:
        """What the peak consists of."""
        return {category: size for category, size in self.plan.by_category().items() if size}

    @property
    def peak_activation_bytes(self) -> int:
        """Most bytes alive at once beside the resident state: activations, errors, gradients."""
        resident = sum(b.bytes for b in self.plan.buffers if b.born < 0)
        return self.peak_ram_bytes - resident

    @property
    def peak_moment(self) -> str:
        node, phase, layer = self.plan.moments[self.plan.peak_index]
        return f"{phase} of {layer or 'the loss'} ({node})"

    @property
    def peak_tensors(self) -> list[Buffer]:
        """What is alive at the peak, largest first."""
        return self.plan.alive(self.plan.peak_index)

    @property
    def flash_bytes(self) -> int:
        return sum(self.plan.flash.values())

    def on(self, device: Device) -> CostReport:
        """The same step on a device: latency, energy, verdict."""
        bytes_without_macs = sum(line.read_bytes + line.written_bytes for line in self.lines if not line.macs)
        latency, energies = 0.0, []
        for index, (width, macs) in enumerate(self.macs_by_arithmetic.items()):
            macs = device.without_npu(macs, self.macs_without_constants.get(width, {}))
            latency += device.latency_s(macs, width)
            energies.append(device.energy_j(macs, width, sram_bytes=0 if index else bytes_without_macs))
        energy = None if None in energies else sum(energies)
        verdict = device.fits(self.peak_ram_bytes, self.flash_bytes)
        return replace(self, device=device, latency_s=latency, energy_j=energy, verdict=verdict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        plain = {
            "model": self.model,
            "method": self.method,
            "batch_size": self.batch_size,
            "width": self.width,
            "optimizer": self.optimizer,
            "total_macs": self.total_macs,
            "macs_by_phase": self.macs_by_phase,
            "macs_by_layer": self.macs_by_layer,
            "elementwise_operations": self.total_elementwise,
            "elementwise_by_phase": self.elementwise_by_phase,
            "parameters_trained": self.parameters_trained,
            "parameters_frozen": self.parameters_frozen,
            "weight_bytes": self.weight_bytes,
            "peak_ram_bytes": self.peak_ram_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "peak_moment": self.peak_moment,
            "ram_bytes_by_category": self.ram_bytes_by_category,
            "peak_tensors": [_plain(b) for b in self.peak_tensors],
            "flash_bytes": self.flash_bytes,
            "flash_bytes_by_category": self.plan.flash,
            "peak_by_schedule": dict(self.savings),
            "by_phase_and_layer": [line.__dict__ for line in self.lines],
            "not_counted": list(self.not_counted),
        }
        if self.device is not None:
            plain |= {
                "device": self.device.name,
                "latency_s": self.latency_s,
                "energy_j": self.energy_j,
                "fits": self.verdict.fits,
                "verdict": self.verdict_text,
            }
        return plain

    @property
    def verdict_text(self) -> str:
        """The verdict, and where it is no, the tensors that take most of the peak."""
        if self.verdict is None:
            return ""
        if self.verdict.ram_margin_bytes >= 0:
            return self.verdict.text
        largest = ", ".join(f"{b.name} ({b.category}, {b.bytes:,} B)" for b in self.peak_tensors[:3])
        return f"{self.verdict.text}; at the peak, {self.peak_moment}, most is {largest}"

    def __rich__(self) -> Group:
        return Group(*_tables(self))

    def summary(self) -> Group:
        """For the terminal: operations by phase, and the totals; without layers and what the peak consists of."""
        return Group(*_summary(self))

    def __str__(self) -> str:
        console = Console(width=140, no_color=True)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def _sum_by(lines: Iterable[CostLine], key: str, value: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for line in lines:
        name = getattr(line, key)
        totals[name] = totals.get(name, 0) + getattr(line, value)
    return totals


def _plain(buffer: Buffer) -> dict[str, Any]:
    return {"name": buffer.name, "category": buffer.category, "layer": buffer.layer, "bytes": buffer.bytes}


def _title(report: CostReport) -> str:
    return f"One step of {report.method} on {report.model}, batch of {report.batch_size}, {report.width}, {report.optimizer}"


def _summary(report: CostReport) -> Iterable[Table | str]:
    yield _title(report)  # not the table's own, which is as narrow as the table
    work = Table(Column("phase", no_wrap=True))
    for heading in ("MAC", "elementwise"):
        work.add_column(heading, justify="right")
    _add_phases(work, report)
    yield work
    yield f"peak RAM {report.peak_ram_bytes:,} B, during {report.peak_moment}; Flash {report.flash_bytes:,} B"
    yield from _conclusions(report)


def _add_phases(work: Table, report: CostReport, *more: str) -> None:
    for phase, macs in report.macs_by_phase.items():
        work.add_row(phase, *more, f"{macs:,}", f"{report.elementwise_by_phase[phase]:,}")
    work.add_row("all", *more, f"{report.total_macs:,}", f"{report.total_elementwise:,}", style="bold")


def _conclusions(report: CostReport) -> Iterable[str]:
    yield f"{report.parameters_trained:,} parameters trained, {report.parameters_frozen:,} frozen"
    if report.device is not None:
        energy = "energy unknown" if report.energy_j is None else f"{report.energy_j * 1e6:,.1f} µJ (estimate)"
        unit = "ms at one instruction per clock" if report.device.counts == "instructions" else "ms"
        yield f"{report.device.name}: {report.latency_s * 1e3:,.2f} {unit} for the MACs, {energy}; {report.verdict_text}"


def _tables(report: CostReport) -> Iterable[Table | str]:
    # names of layers are folded, never cut: their ends tell heads apart
    work = Table(Column("phase", no_wrap=True), Column("layer", overflow="fold"), title=_title(report), title_justify="left")
    for heading in ("MAC", "elementwise", "bytes read", "bytes written"):
        work.add_column(heading, justify="right", no_wrap=True)
    for line in report.lines:
        if line.macs or line.elementwise:
            figures = (line.macs, line.elementwise, line.read_bytes, line.written_bytes)
            work.add_row(line.phase, line.layer or "-", *(f"{v:,}" for v in figures))
    work.add_section()
    _add_phases(work, report, "all")
    yield work
    memory = Table("memory", "bytes", title=f"Peak RAM, during {report.peak_moment}", title_justify="left")
    memory.columns[1].justify = "right"
    for category, size in report.ram_bytes_by_category.items():
        memory.add_row(category, f"{size:,}")
    memory.add_row("peak RAM", f"{report.peak_ram_bytes:,}", style="bold")
    memory.add_section()
    for category, size in report.plan.flash.items():
        if size:
            memory.add_row(f"Flash: {category}", f"{size:,}")
    memory.add_row("Flash", f"{report.flash_bytes:,}", style="bold")
    memory.add_section()
    for name, peak in _schedule(report.savings):
        memory.add_row(name, f"{peak:,}")
    yield memory
    yield from _conclusions(report)
    yield "Not counted: " + "; ".join(report.not_counted)


def _schedule(savings: Sequence[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    """The peak as traced, and after each pass that changed it. One that raises it is kept because a later one needs it to end lower."""
    (name, before), *rest = savings
    yield f"peak RAM {name}", before
    for name, peak in rest:
        if peak != before:
            yield f"then {name}" + (" (for the passes below)" if peak > before else ""), peak
        before = peak
