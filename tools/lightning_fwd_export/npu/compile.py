"""A network as one program for an Ethos-U: its binary, the records of its layers by their names, and how inputs and outputs are
quantised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from torch import Tensor, fx, nn

from ..errors import ExportError
from .binary import Binary
from .find_records import LayerRecords, find_records
from .lower import Lowered, lower
from .tosa_graph import TosaGraph


@dataclass(frozen=True)
class Quantised:
    """An int8 tensor of the program: ``real = (stored - zero_point) * scale``. ``slot`` is its number among the binary's."""

    slot: int
    scale: float
    zero_point: int

    def store(self, real: np.ndarray) -> np.ndarray:
        return np.clip(np.round(real / self.scale) + self.zero_point, -128, 127).astype(np.int8)

    def real(self, stored: np.ndarray) -> np.ndarray:
        return (stored.astype(np.float32) - self.zero_point) * np.float32(self.scale)


@dataclass(frozen=True)
class NpuProgram:
    """A network compiled in one piece.

    Attributes:
        tosa: what Vela compiled.
        layers: the records of every convolution and linear layer, by module path, in the order of execution.
        inputs, outputs: of the network, in the order of its arguments and results.
        cycles: of one inference, the compiler's estimate. clock_hz: of the system it assumes.
        operations: in the order of execution, the TOSA tensor that each computes, and its part of the cycles.
    """

    network: str
    tosa: bytes
    binary: Binary
    layers: dict[str, LayerRecords]
    inputs: tuple[Quantised, ...]
    outputs: tuple[Quantised, ...]
    cycles: int
    clock_hz: float
    operations: tuple[tuple[str, int], ...]

    def cycles_before(self, number: int) -> int:
        """What runs before the first operation that depends on an input of the network, by its number; an estimate."""
        graph = TosaGraph(self.tosa)
        depends = {graph.inputs[self.inputs[number].slot]}
        for operator in graph.operators:
            if not depends.isdisjoint(operator.inputs):
                depends.update(operator.outputs)
        return sum(cycles for _, cycles in takewhile(lambda operation: operation[0] not in depends, self.operations))

    @property
    def records(self) -> int:
        """How many records all layers have together."""
        return sum(len(layer.offsets) for layer in self.layers.values())


def compile_network(
    net: nn.Module, example: Sequence[Tensor], accelerator: str, calibration: Iterable[Sequence[Tensor]] = ()
) -> NpuProgram:
    """Quantise and compile a network, and find its records.

    Args:
        net: takes the tensors of ``example``, returns one tensor or several; it is not changed.
        example: one call's inputs, batch 1.
        accelerator: Vela's name, e.g. ``ethos-u55-128``.
        calibration: calls that show the ranges of the activations, besides the example.

    Raises:
        ExportError: the network does not lower, or not in one piece; a record was not found.
    """
    name = type(net).__name__
    lowered = lower(net, example, accelerator, calibration)
    if len(lowered.parts) != 1 or lowered.on_cpu:
        raise ExportError(
            f"{accelerator} takes {name} in {len(lowered.parts)} parts",
            f"left on the CPU: {lowered.on_cpu}",
            "what learns by records is one program: exchange what the NPU does not take",
        )
    (part,) = lowered.parts
    return NpuProgram(
        network=name,
        tosa=part.tosa,
        binary=part.binary,
        layers=_named(net, lowered, find_records(part.tosa, part.binary), TosaGraph(part.tosa)),
        inputs=_inputs(lowered),
        outputs=_outputs(lowered),
        cycles=int(float(part.summary["cycles_total"])),
        clock_hz=float(part.summary["core_clock"]),
        operations=part.operations,
    )


def _named(net: nn.Module, lowered: Lowered, records: Sequence[LayerRecords], graph: TosaGraph) -> dict[str, LayerRecords]:
    """TOSA keeps the order of execution; that each layer got its own weights is checked."""
    if len(lowered.layers) != len(records):
        raise ExportError(f"{len(records)} convolutions were compiled from {len(lowered.layers)} layers", "", "report the network")
    for path, layer in zip(lowered.layers, records, strict=True):
        stored = np.abs(graph.constant(layer.convolution.weight).astype(float))
        stored = stored.transpose(2, 3, 0, 1) if layer.convolution.depthwise else stored  # (kh, kw, channels, 1) or (channels, kh, kw, in)
        real = net.get_submodule(path).weight.detach().abs().double().numpy()
        if not layer.convolution.depthwise and real.ndim > 2:
            real = np.moveaxis(real, 1, -1)  # TOSA has the input channels last
        stored, real = (w.reshape(layer.convolution.channels, -1) for w in (stored, real))
        if stored.shape != real.shape or not _alike(stored, real):
            raise ExportError(
                f"the weights compiled for {path} are not its own", "layers were compiled in another order", "report the network"
            )
    return dict(zip(lowered.layers, records, strict=True))


def _alike(stored: np.ndarray, real: np.ndarray) -> bool:
    """Whether magnitudes ``(channels, weights)`` are those of the floats up to a factor per channel and one step of the quantisation."""
    steps, top = (w.max(axis=1, keepdims=True) for w in (stored, real))
    known = ((steps > 0) & (top > 0))[:, 0]
    return bool((np.abs(stored[known] / steps[known] - real[known] / top[known]) <= 1.01 / steps[known]).all())


def _inputs(lowered: Lowered) -> tuple[Quantised, ...]:
    graph = lowered.edge.exported_program().graph
    (delegate,) = (n for n in graph.nodes if n.op == "call_function" and "call_delegate" in n.target.__name__)
    slots = {node: slot for slot, node in enumerate(delegate.args[1:])}
    found = {}
    for node in graph.nodes:
        if _is(node, "quantize_per_tensor") and node in slots:
            found[node.args[0]] = Quantised(slots[node], float(node.args[1]), int(node.args[2]))
    return tuple(found[node] for node in graph.nodes if node in found)  # placeholders stand in the order of the arguments


def _outputs(lowered: Lowered) -> tuple[Quantised, ...]:
    (result,) = lowered.edge.exported_program().graph.find_nodes(op="output")
    if any(not _is(node, "dequantize_per_tensor") for node in result.args[0]):
        raise ExportError("an output of the network is not quantised", "", "return what layers of the network compute")
    return tuple(Quantised(node.args[0].args[1], float(node.args[1]), int(node.args[2])) for node in result.args[0])


def _is(node: fx.Node, name: str) -> bool:
    return node.op == "call_function" and node.target.__name__.split(".")[-2 if "." in node.target.__name__ else -1] == name
