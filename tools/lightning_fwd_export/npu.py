"""What an Ethos-U takes for a network's forward pass, as its compiler (Vela) estimates it, and a device profile of that.

An NPU has the weights compiled into its command stream, so of a training step it runs the forward passes of layers that do not learn. How many
cycles a MAC takes differs between networks (a depthwise convolution fills little of the array), so a profile with one figure for all is rough.
"""

from __future__ import annotations

import copy
import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from lightning_fwd.cost import load_device, price
from lightning_fwd.cost.device import Figure, save_device
from lightning_fwd.methods import Backprop, rewrite
from lightning_fwd.trace import trace_inference

from .errors import ExportError
from .int8 import channels_last
from .quiet import quiet

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


@quiet()
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
    if find_spec("ethosu") is None:
        raise ExportError("Vela, the compiler of Ethos-U, is not installed", "", "pip install -e '.[npu]'")
    name, net, example = type(net).__name__, copy.deepcopy(net).eval(), channels_last(example)
    macs = _inference_macs(net, example)
    with TemporaryDirectory() as folder, _a_folder_per_part(Path(folder)), redirect_stdout(StringIO()):
        try:
            lowered = _lower(net, example, accelerator, calibration)
        except Exception as error:
            raise ExportError(f"{name} does not lower to {accelerator}", f"{type(error).__name__}: {error}") from error
        summaries = [row for file in sorted(Path(folder).glob("*/output/*summary*.csv")) for row in csv.DictReader(file.open())]
    if not summaries:
        raise ExportError(f"{accelerator} takes no part of {name}", f"left on the CPU: {_left_on_cpu(lowered)}", "price it on its CPU")
    return NpuForward(
        network=name,
        accelerator=accelerator,
        clock_hz=float(summaries[0]["core_clock"]),
        cycles=sum(int(float(s["cycles_total"])) for s in summaries),
        parts=len(summaries),
        macs=macs,
        on_cpu=_left_on_cpu(lowered),
    )


def write_profile(forward: NpuForward, path: Path) -> None:
    """A device profile for this network: the built-in one of the accelerator with the forward passes as Vela estimates them here."""
    device = load_device(ACCELERATORS[forward.accelerator])
    source = f"Vela: {forward.network}, {forward.cycles:,} cycles for {forward.macs:,} MAC"
    figure = Figure(round(forward.cycles_per_mac, 6), "estimate", source)
    int8 = {**device.cycles_per_mac["int8"], "forward": figure, "second_forward": figure}
    save_device(replace(device, name=path.stem, cycles_per_mac={**device.cycles_per_mac, "int8": int8}), path)


def _inference_macs(net: nn.Module, example: Tensor) -> int:
    model = rewrite(copy.deepcopy(net), Backprop(), example)
    return price(trace_inference(model, example), model, width="int8").total_macs


def _lower(net: nn.Module, example: Tensor, accelerator: str, calibration: Iterable[Tensor]) -> EdgeProgramManager:
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config

    spec = EthosUCompileSpec(accelerator)
    quantizer = EthosUQuantizer(spec).set_global(get_symmetric_quantization_config(is_per_channel=True))
    exported = torch.export.export(net, (example,), strict=True).module(check_guards=False)
    _free_strides(exported)
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch in [example, *calibration]:
            prepared(channels_last(batch))
    program = torch.export.export(convert_pt2e(prepared), (example,), strict=True)
    config = EdgeCompileConfig(_check_ir_validity=False)
    return to_edge_transform_and_lower(program, partitioner=[EthosUPartitioner(spec)], compile_config=config)


def _free_strides(module: fx.GraphModule) -> None:
    """Pooling to one position needs no more than the stride that leaves the window no second place; a U55's pooling strides by 3 at most."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.avg_pool2d.default):
        kernel, padding = node.args[1], node.args[3] if len(node.args) > 3 else (0, 0)
        if node.meta["val"].shape[2:] == (1, 1):
            sizes = node.args[0].meta["val"].shape[2:]
            node.update_arg(2, [size + 2 * pad - k + 1 for size, pad, k in zip(sizes, padding, kernel, strict=True)])
    module.recompile()


def _left_on_cpu(lowered: EdgeProgramManager) -> dict[str, int]:
    names = [n.target.__name__ for n in lowered.exported_program().graph.nodes if n.op == "call_function"]
    return dict(Counter(n for n in names if not any(part in n for part in ("call_delegate", "getitem", "quantize"))))


@contextmanager
def _a_folder_per_part(folder: Path) -> Iterator[None]:
    """Vela writes its figures into one folder per network, where each part would overwrite the part before."""
    from executorch.backends.arm.ethosu import backend

    compile_part, parts = backend.vela_compile, 0

    def compile_apart(*args, **kwargs):
        nonlocal parts
        parts += 1
        mine = folder / f"{parts:04}"
        mine.mkdir()
        return compile_part(*args, **{**kwargs, "intermediate_path": str(mine), "verbose": False})

    backend.vela_compile = compile_apart
    try:
        yield
    finally:
        backend.vela_compile = compile_part
