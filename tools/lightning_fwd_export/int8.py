"""Int8 inference in ExecuTorch's Cortex-M dialect, made ready for our kernels.

``quantise`` calibrates a frozen network, ``lower_int8`` turns an edge program's quantised part into kernel calls. What the stock flow
leaves to mend: zero padding ahead of a strided convolution (Keras "same" is asymmetric there) runs as a copy of the whole image, so
it moves into the convolution; constants that no call reads stay in the file, so they are dropped; scratch is sized for another
kernel library, so it is sized for ours.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
from executorch.backends.cortex_m.target_config import CortexM, CortexMTargetConfig
from executorch.backends.transforms.utils import delete_constant_placeholder
from executorch.exir import EdgeProgramManager, memory, to_edge
from executorch.exir.dialects._ops import ops as edge_ops
from executorch.exir.passes.quantize_io_pass import QuantizeInputs, QuantizeOutputs
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from . import ops  # noqa: F401  (defines lfwd::)
from .errors import ExportError, NoKernel
from .height_one import to_height_one

compile_config = cortex_m_edge_compile_config
_CONVS = {
    edge_ops.edge.cortex_m.quantized_conv2d.default: 12,
    edge_ops.edge.cortex_m.quantized_depthwise_conv2d.default: 13,
}


def channels_last(x: Tensor) -> Tensor:
    """Images in the memory layout of the int8 kernels (NHWC); other ranks as they are."""
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def quantise(net: nn.Module, calibration: Iterable[Tensor], example: Tensor) -> GraphModule:
    """Simulated-int8 copy of a network in eval mode.

    Args:
        net: maps ``(B, ...)`` to one tensor; must not change its own buffers.
        calibration: input batches of the example's shape that show the range of every activation.
        example: one input batch; its batch size is the program's.

    Raises:
        ExportError: no calibration data, of another shape, or the network writes to a buffer (quantising that loses the write silently).
    """
    example = channels_last(example)
    exported = torch.export.export(net.eval(), (example,), strict=True)
    if exported.graph_signature.buffers_to_mutate:
        raise ExportError(
            f"{type(net).__name__} changes {', '.join(exported.graph_signature.buffers_to_mutate.values())} while it runs: quantisation "
            "would drop that without a word. Quantise the frozen part only"
        )
    module = exported.module(check_guards=False)
    to_height_one(module)
    prepared = prepare_pt2e(module, CortexMQuantizer())
    seen = 0
    with torch.no_grad():
        for batch in calibration:
            if batch.shape != example.shape:
                raise ExportError(f"a calibration batch has shape {tuple(batch.shape)}, the program takes {tuple(example.shape)}")
            prepared(channels_last(batch))
            seen += 1
    if not seen:
        raise ExportError("no calibration data: int8 needs batches that show the range of every activation; give calibration=")
    return convert_pt2e(prepared)


def int8_inference(net: nn.Module, calibration: Iterable[Tensor], example: Tensor, int8_io: bool = True) -> EdgeProgramManager:
    """Edge program with one method ``forward``, int8 throughout.

    Args:
        net, calibration, example: as for :func:`quantise`.
        int8_io: take and return int8; scale and zero point are in the program as ``forward_input0_scale`` and so on.
    """
    quantised = quantise(net, calibration, example)
    program = torch.export.export(quantised, (channels_last(example),), strict=True)
    edge = to_edge({"forward": program}, compile_config=compile_config())
    if int8_io:
        edge = edge.transform([QuantizeInputs(edge, [0], "forward"), QuantizeOutputs(edge, [0], "forward")])
    edge._edge_programs["forward"] = lower_int8(edge.exported_program("forward"))
    return edge


def lower_int8(program: ExportedProgram) -> ExportedProgram:
    """Turn quantise-operate-dequantise patterns into int8 kernel calls; float parts stay as they are.

    Raises:
        ExportError: a mutated buffer got lost on the way.
    """
    mutated = dict(program.graph_signature.buffers_to_mutate)
    # One program serves every board: the M4 flavour keeps the bias where all our kernels read it.
    config = CortexMTargetConfig(cpu=CortexM.M4)
    program = CortexMPassManager(program, target_config=config).transform()
    refuse_concatenation(program)
    fuse_padding(program)
    average_in_integers(program)
    size_scratch(program)
    drop_dead_constants(program)
    if len(program.graph_signature.buffers_to_mutate) != len(mutated):
        raise ExportError(f"quantisation lost updates of {', '.join(set(mutated.values()))}: nothing is written")
    return program


def refuse_concatenation(program: ExportedProgram) -> None:
    """Say so where ExecuTorch's runtime would join images as if their channels lay first in memory."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.target is edge_ops.edge.aten.cat.default and value.dtype == torch.int8 and not value.is_contiguous():
            layer = (node.meta.get("custom") or {}).get("layer", "")
            raise NoKernel(
                f"operator aten::cat in {layer or 'an unnamed module'} has no int8 kernel",
                "ExecuTorch's runtime concatenates images channels first, the int8 kernels keep them channels last",
                "add in place of concatenating, or train from an earlier layer on, which keeps it in float",
                layer,
            )


def fuse_padding(program: ExportedProgram) -> None:
    """``pad`` by the zero point, then a convolution without padding -> one convolution with four paddings; no pad by nothing."""
    graph = program.graph
    conv, pad = edge_ops.edge.cortex_m.quantized_conv2d.default, edge_ops.edge.cortex_m.pad.default
    for node in list(graph.nodes):
        if node.target is pad and not any((*node.args[1], *node.args[2])):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target is not conv or node.args[0].op != "call_function" or node.args[0].target is not pad:
            continue
        source, before, after, value = node.args[0].args
        if list(node.args[4]) != [0, 0] or value != -node.args[6] or any((before[0], before[3], after[0], after[3])):
            continue  # padded channels, or with another value than the convolution's own
        padding = [before[1], before[2], after[1], after[2]]
        padded = node.args[0]
        node.target = edge_ops.edge.lfwd.quantized_conv2d.default
        node.args = (source, *node.args[1:4], padding, *node.args[5:])
        if not padded.users:
            graph.erase_node(padded)
    graph.lint()
    program.graph_module.recompile()


def average_in_integers(program: ExportedProgram) -> None:
    """Average pooling by our operator, whose reference rounds as its kernel does."""
    for node in program.graph.nodes:
        if node.target is edge_ops.edge.cortex_m.quantized_avg_pool2d.default and not node.args[4]:  # no ceil_mode
            node.target = edge_ops.edge.lfwd.quantized_avg_pool2d.default
            node.args = (node.args[0], *(list(v) for v in node.args[1:4]))
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def size_scratch(program: ExportedProgram) -> None:
    """Give each convolution what ``LFWD_CONV2D_S8_SCRATCH`` asks for (depthwise: none, but a tensor cannot be empty)."""
    padded = edge_ops.edge.lfwd.quantized_conv2d.default
    for node in program.graph.nodes:
        position = {**_CONVS, padded: 12}.get(node.target)
        if position is None:
            continue
        out_c, k_h, k_w, k_c = node.args[1].meta["val"].shape
        depthwise = position == 13
        _resize(node.args[position], 4 if depthwise else 4 * k_h * k_w * k_c + 4 * out_c + 16)


def _resize(alloc: fx.Node, nbytes: int) -> None:
    assert alloc.target is memory.alloc, f"{alloc} is no scratch"
    alloc.args = (((nbytes,), torch.uint8),)
    alloc.meta["val"] = torch.empty((nbytes,), dtype=torch.uint8, device="meta")


def drop_dead_constants(program: ExportedProgram) -> None:
    """Delete parameters and constants that nothing reads (the float weights behind the quantised ones)."""
    signature = program.graph_signature
    constants = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and not node.users and node.name in constants:
            delete_constant_placeholder(program, node)
    program.graph_module.recompile()
