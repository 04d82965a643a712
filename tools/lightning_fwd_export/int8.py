"""Int8 inference in ExecuTorch's Cortex-M dialect, made ready for our kernels.

``quantise`` calibrates a frozen network, ``lower_int8`` turns an edge program's quantised part into kernel calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from executorch.backends.cortex_m.edge_compile_config import cortex_m_edge_compile_config
from executorch.backends.cortex_m.passes.cortex_m_pass_manager import CortexMPassManager
from executorch.backends.cortex_m.quantizer.quantizer import CortexMQuantizer
from executorch.backends.cortex_m.target_config import CortexM, CortexMTargetConfig
from executorch.backends.transforms.remove_getitem_op import RemoveGetItemPass
from executorch.exir import EdgeProgramManager, to_edge
from executorch.exir.dialects._ops import ops as edge_ops
from executorch.exir.pass_base import ExportPass
from executorch.exir.passes.quantize_io_pass import QuantizeInputs, QuantizeOutputs
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.traceback import preserve_node_meta
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from .ceil_pooling import to_whole_windows
from .channels_last import to_channels_last
from .errors import ExportError
from .height_one import to_height_one
from .lower_int8 import lower
from .program import Method

compile_config = cortex_m_edge_compile_config
_aten = edge_ops.edge.aten


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
    to_whole_windows(module)
    to_channels_last(module)
    prepared = prepare_pt2e(module, CortexMQuantizer())
    seen, shows = 0, False
    with torch.no_grad():
        for batch in calibration:
            if batch.shape != example.shape:
                raise ExportError(f"a calibration batch has shape {tuple(batch.shape)}, the program takes {tuple(example.shape)}")
            if not bool(torch.isfinite(batch).all()):
                raise ExportError(f"calibration batch {seen} is not finite", "its range would be the program's", "look for bad values")
            prepared(channels_last(batch))
            seen, shows = seen + 1, shows or bool((batch != batch.flatten()[0]).any())
    if not seen or not shows:
        raise ExportError(
            "calibration data of one value only" if seen else "no calibration data",
            "int8 takes the range of every activation from them",
            "give calibration=: real batches of the example's shape",
        )
    return convert_pt2e(prepared)


def int8_inference(net: nn.Module, calibration: Iterable[Tensor], example: Tensor) -> EdgeProgramManager:
    """Edge program with one method ``forward``, int8 throughout, input and output included: scale and zero point are in the program as
    ``forward_input0_scale`` and so on. Arguments and errors as for :func:`quantise` and :func:`lower_int8`.
    """
    quantised = quantise(net, calibration, example)
    label_layers(quantised.graph)
    with preserve_node_meta():
        program = torch.export.export(Method(quantised), (channels_last(example),), strict=False)
    edge = to_edge({"forward": program}, compile_config=compile_config())
    edge = edge.transform([QuantizeInputs(edge, [0], "forward"), QuantizeOutputs(edge, [0], "forward")])
    edge._edge_programs["forward"] = lower_int8(edge.exported_program("forward"))
    return edge


_CHILD = re.compile(r"getattr\(([^()]+), '([^']+)'\)")


def label_layers(graph: fx.Graph) -> None:
    """Note each node's layer where torch.export carries it along; what a pass inserted belongs to the layer before it."""
    for node in graph.nodes:
        before = ((n.meta.get("custom") or {}).get("layer", "") for n in reversed(node.all_input_nodes) if n.op == "call_function")
        node.meta["custom"] = {**(node.meta.get("custom") or {}), "layer": layer_of(node) or next(before, ""), "phase": "forward"}


def layer_of(node: fx.Node) -> str:
    """Module path that torch.export noted for a node; of some it notes Python, ``getattr(L['self'].body, '0')``."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, more = stack[-1][0] if stack else "", 1
    while more:
        path, more = _CHILD.subn(r"\1.\2", path)
    return path.removeprefix("L['self'].")


class _PoolsOfTheBody(RemoveGetItemPass):
    """Max pooling without its indices, where nothing reads them: in a part that learns its gradient does."""

    def call(self, graph_module: GraphModule) -> PassResult:
        pools = [n for n in graph_module.graph.nodes if n.target is _aten.max_pool2d_with_indices.default]
        if all(len(n.users) == 1 for n in pools):
            return super().call(graph_module)
        for node in (n for n in pools if len(n.users) == 1):
            (values,) = node.users
            with graph_module.graph.inserting_before(node):
                new = graph_module.graph.call_function(_aten.max_pool2d.default, node.args, node.kwargs)
            new.meta = {**node.meta, "val": values.meta["val"]}
            values.replace_all_uses_with(new)
            graph_module.graph.erase_node(values)
            graph_module.graph.erase_node(node)
        graph_module.recompile()
        return ExportPass.call(self, graph_module)


def lower_int8(program: ExportedProgram) -> ExportedProgram:
    """Turn quantise-operate-dequantise patterns into int8 kernel calls; float parts stay as they are.

    Raises:
        ExportError: a mutated buffer got lost on the way.
    """
    mutated = dict(program.graph_signature.buffers_to_mutate)
    # One program serves every board: the M4 flavour keeps the bias where all our kernels read it.
    config = CortexMTargetConfig(cpu=CortexM.M4)
    passes = [_PoolsOfTheBody if one is RemoveGetItemPass else one for one in CortexMPassManager.pass_list]
    program = CortexMPassManager(program, passes, config).transform()
    lower(program)
    if len(program.graph_signature.buffers_to_mutate) != len(mutated):
        raise ExportError(f"quantisation lost updates of {', '.join(set(mutated.values()))}: nothing is written")
    return program
