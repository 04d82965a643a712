"""What an Ethos-U takes for a network's forward pass, as its compiler (Vela) estimates it, and a device profile of that.

How many cycles a MAC takes differs between networks (a depthwise convolution fills little of the array), so a profile with one figure for
all is rough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from lightning_fwd.cost import load_device, price
from lightning_fwd.cost.device import Device, Figure, save_device
from lightning_fwd.methods import Backprop, rewrite
from lightning_fwd.trace import trace_inference

from ..errors import ExportError
from ..foreign import as_export_errors, own_copy, require_network
from .lower import MEND, lower, require_vela

#: accelerators by Vela's names; each with the built-in profile of the system around it
ACCELERATORS = {"ethos-u55-128": "ethos_u55_128", "ethos-u85-256": "ethos_u85_256"}


@dataclass(frozen=True)
class NpuForward:
    """One int8 forward pass on an accelerator, as Vela estimates it.

    Attributes:
        accelerator: Vela's name. clock_hz: of the system that Vela assumes around it.
        cycles: of all parts that run on it, one after the other.
        parts: pieces that the network was compiled in; between two of them the CPU has a turn.
        macs: multiply-accumulates of the whole forward pass, as the ledger counts them.
        on_cpu: operations that the accelerator does not take, and how often; quantising the input and the like not counted.
    """

    network: str
    accelerator: str
    clock_hz: float
    cycles: int
    parts: int
    macs: int
    on_cpu: dict[str, int]

    @property
    def cycles_per_mac(self) -> float:
        return self.cycles / self.macs


@as_export_errors(MEND)
def npu_forward(net: nn.Module, example: Tensor, accelerator: str, calibration: Iterable[Tensor] = ()) -> NpuForward:
    """Quantise a network to int8, compile it for an accelerator and read what the compiler estimates.

    Args:
        net: maps ``(B, ...)`` to logits; it is not changed.
        example: one input batch ``(B, ...)``; the figures are those of such a batch.
        accelerator: one of :data:`ACCELERATORS`.
        calibration: batches that show the ranges of the activations (default: the example; ranges do not change the time).

    Raises:
        ExportError: unknown accelerator, Vela is not installed, or the network does not lower.
    """
    if accelerator not in ACCELERATORS:
        raise ExportError(f"unknown accelerator {accelerator!r}", "", f"known: {', '.join(ACCELERATORS)}")
    require_vela()
    require_network(net, example)
    lowered = lower(net, (example,), accelerator, [(batch,) for batch in calibration])
    summaries = [part.summary for part in lowered.parts]
    return NpuForward(
        network=type(net).__name__,
        accelerator=accelerator,
        clock_hz=float(summaries[0]["core_clock"]),
        cycles=sum(int(float(s["cycles_total"])) for s in summaries),
        parts=len(summaries),
        macs=inference_macs(net, example),
        on_cpu=lowered.on_cpu,
    )


def write_profile(forward: NpuForward, path: Path, base: Device | None = None) -> None:
    """A device profile for this network: ``base`` (default: the built-in one of the accelerator) with the forward passes as Vela estimates
    them here."""
    device = base or load_device(ACCELERATORS[forward.accelerator])
    source = f"Vela: {forward.network}, {forward.cycles:,} cycles for {forward.macs:,} MAC"
    figure = Figure(round(forward.cycles_per_mac, 6), "estimate", source)
    int8 = {**device.cycles_per_mac["int8"], "forward": figure, "second_forward": figure}
    save_device(replace(device, name=path.stem, cycles_per_mac={**device.cycles_per_mac, "int8": int8}), path)


def inference_macs(net: nn.Module, example: Tensor) -> int:
    """Of one int8 forward pass, as the ledger counts them."""
    model = rewrite(own_copy(net), Backprop(), example)
    return price(trace_inference(model, example), model, width="int8").total_macs
