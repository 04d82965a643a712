"""A network quantised to int8, lowered to TOSA and compiled by Vela, with everything the compiler wrote kept."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge_transform_and_lower
from torch import Tensor, fx, nn
from torchao.quantization.pt2e import FixedQParamsObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from lightning_fwd.errors import LightningFwdError

from ..errors import ExportError
from ..foreign import own_copy
from ..int8 import channels_last, layer_of
from ..quiet import quiet
from .binary import Binary

#: what to do where a network does something that cannot be carried over
MEND = "write it in another way, or price it on a CPU (lightning-fwd cost)"

#: a product with that constant is clamped to 0..1: 1 where the other factor is above 0, else 0
MASK_GAIN = 1e4

#: lets Vela write what each operation takes
_PER_OPERATION = "--verbose-performance"

_ATEN = torch.ops.aten
_LAYERS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv2d.padding, _ATEN.linear.default, _ATEN.conv_transpose2d.input)


@dataclass(frozen=True)
class Part:
    """One piece of the network that the accelerator takes.

    Attributes:
        tosa: the TOSA flatbuffer that Vela compiled.
        binary: what Vela made of it.
        summary: Vela's estimates, by the columns of its summary .csv.
        operations: in the order of execution, the TOSA tensor that each computes, and its cycles by Vela's estimate.
    """

    tosa: bytes
    binary: Binary
    summary: dict[str, str]
    operations: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Lowered:
    """The edge program with the NPU's parts as delegates, in the order of execution.

    Attributes:
        layers: module paths of all convolutions and linear layers, in the order of execution.
    """

    edge: EdgeProgramManager
    parts: tuple[Part, ...]
    layers: tuple[str, ...]

    @property
    def on_cpu(self) -> dict[str, int]:
        """Operations that the accelerator does not take, and how often; quantising inputs and the like not counted."""
        names = [n.target.__name__ for n in self.edge.exported_program().graph.nodes if n.op == "call_function"]
        return dict(Counter(n for n in names if not any(part in n for part in ("call_delegate", "getitem", "quantize"))))


@quiet()
def lower(
    net: nn.Module, example: Sequence[Tensor], accelerator: str, calibration: Iterable[Sequence[Tensor]] = (), flags: Sequence[str] = ()
) -> Lowered:
    """Quantise a network to int8 (weights per channel) and compile it for an Ethos-U.

    Args:
        net: takes the tensors of ``example``; it is not changed.
        example: one call's inputs; the program takes these shapes.
        accelerator: Vela's name, e.g. ``ethos-u55-128``.
        calibration: calls that show the ranges of the activations, besides the example.
        flags: for Vela.

    Raises:
        ExportError: Vela is not installed, the network does not lower, or the accelerator takes no part of it.
    """
    require_vela()
    name, net, example = type(net).__name__, own_copy(net), tuple(map(channels_last, example))
    with TemporaryDirectory() as folder, _a_folder_per_part(Path(folder)), redirect_stdout(StringIO()):
        try:
            edge, layers = _lower(net, example, accelerator, calibration, flags)
        except (LightningFwdError, MemoryError, OSError):
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
            raise ExportError(f"{name} does not lower to {accelerator}", why, MEND) from error
        lowered = Lowered(edge, tuple(_read(part, accelerator) for part in sorted(Path(folder).iterdir())), layers)
    if not lowered.parts:
        raise ExportError(f"{accelerator} takes no part of {name}", f"left on the CPU: {lowered.on_cpu}", "price it on its CPU")
    return lowered


def require_vela() -> None:
    """Raise where Ethos-U's compiler is missing."""
    if find_spec("ethosu") is None:
        raise ExportError("Vela, the compiler of Ethos-U, is not installed", "", "pip install -e '.[npu]'")


def _lower(net, example, accelerator, calibration, flags) -> tuple[EdgeProgramManager, tuple[str, ...]]:
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config

    spec = EthosUCompileSpec(accelerator, extra_flags=[_PER_OPERATION, *flags])
    quantizer = EthosUQuantizer(spec).set_global(get_symmetric_quantization_config(is_per_channel=True))
    exported = torch.export.export(net, example, strict=True).module(check_guards=False)
    _free_strides(exported)
    layers = tuple(layer_of(node) for node in exported.graph.nodes if node.target in _LAYERS)
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch in [example, *calibration]:
            prepared(*map(channels_last, batch))
    _saturate_masks(prepared)
    program = torch.export.export(convert_pt2e(prepared), example, strict=True)
    config = EdgeCompileConfig(_check_ir_validity=False)
    return to_edge_transform_and_lower(program, partitioner=[EthosUPartitioner(spec)], compile_config=config), layers


def _free_strides(module: fx.GraphModule) -> None:
    """Pooling to one position, so that every Ethos-U takes it: what the window leaves out is cut away, then the stride is 1.

    A U55's pooling strides by 3 at most, and where the window leaves something out (one of DS-CNN's 25 frames) it does not take it at all.
    """
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.avg_pool2d.default):
        image, kernel, padding = *node.args[:2], node.args[3] if len(node.args) > 3 else (0, 0)
        if node.meta["val"].shape[2:] != (1, 1) or any(padding):
            continue
        with module.graph.inserting_before(node):
            for dim, (size, k) in enumerate(zip(image.meta["val"].shape[2:], kernel, strict=True), start=2):
                if k < size:
                    value = node.args[0].meta["val"].narrow(dim, 0, k)
                    image = module.graph.call_function(torch.ops.aten.slice.Tensor, (image, dim, 0, k))
                    image.meta = {**node.args[0].meta, "val": value}
        node.args = (image, kernel, [1, 1], *node.args[3:])
    module.recompile()


def _saturate_masks(prepared: fx.GraphModule) -> None:
    """``hardtanh(x * MASK_GAIN, 0, 1)`` is stored as a mask of the signs of ``x``.

    The product's range would be calibrated to that of ``x`` times the gain, in which 1 is next to nothing. Limited to 0..1 the product
    saturates, for every level of ``x`` above 0.
    """
    one = FixedQParamsObserver(1 / 255, -128, dtype=torch.int8, qscheme=torch.per_tensor_affine, quant_min=-128, quant_max=127)
    for node in prepared.graph.find_nodes(op="call_function", target=_ATEN.hardtanh.default):
        ranges = node.args[0]
        product = ranges.args[0]
        if product.target == _ATEN.mul.Tensor and _observed(prepared, product.args[1]) == MASK_GAIN:
            for observer in (ranges, *node.users):
                prepared.set_submodule(observer.target, one)


def _observed(prepared: fx.GraphModule, observer: fx.Node) -> float:
    """The constant that an observer saw, or 0 where it saw an activation."""
    constant = observer.args[0]
    return float(getattr(prepared, constant.target)) if constant.op == "get_attr" else 0.0


def _read(folder: Path, accelerator: str) -> Part:
    (summary,) = (folder / "output").glob("*summary*.csv")
    binary = Binary.read(folder / "output" / "out_vela.npz", accelerator)
    (layers,) = (folder / "output").glob("*per-layer*.csv")
    operations = tuple((row["Name"], int(float(row["Op Cycles"]))) for row in csv.DictReader(layers.open()))
    return Part((folder / "out.tosa").read_bytes(), binary, list(csv.DictReader(summary.open()))[-1], operations)


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
