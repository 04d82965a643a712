"""From ExecuTorch's Cortex-M dialect to calls of our int8 kernels.

What the stock flow leaves to mend: padding runs as a copy of the whole image, so it moves into the convolution that reads it; a convolution
of
one channel runs as a depthwise one, and a depthwise one of several samples as a grouped one; the references lack dilation; constants that
no call reads stay in the file; scratch is sized for another kernel library.
"""

from __future__ import annotations

import math

import torch
from executorch.backends.cortex_m.passes.passes_utils import is_channels_last
from executorch.backends.transforms.utils import create_constant_placeholder, delete_constant_placeholder, get_param_tensor
from executorch.exir import memory
from executorch.exir.dialects._ops import ops as edge_ops
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from . import ops_int8  # noqa: F401  (defines lfwd::quantized_*)
from .errors import NoKernel

_cortex_m, _lfwd = edge_ops.edge.cortex_m, edge_ops.edge.lfwd
_CONV, _DEPTHWISE = _lfwd.quantized_conv2d.default, _lfwd.quantized_depthwise_conv2d.default
_CONVS = {_cortex_m.quantized_conv2d.default: _CONV, _cortex_m.quantized_depthwise_conv2d.default: _DEPTHWISE}
_TRANSPOSE = _cortex_m.transpose.default
_AVERAGE, _aten = _lfwd.quantized_avg_pool2d.default, edge_ops.edge.aten
# What is written and checked for int8, images channels last included: all else would run a float operator's code on these bytes.
_OURS = {_CONV, _DEPTHWISE, _AVERAGE, edge_ops.edge.dim_order_ops._clone_dim_order.default, _aten.clamp.default} | {
    getattr(_cortex_m, name).default
    for name in "quantized_linear quantized_add quantized_mul quantized_max_pool2d quantized_activation quantize_per_tensor "
    "dequantize_per_tensor maximum minimum pad".split()
}
# Of vectors, signals, and what else lies channels first.
_VIEW = _aten.view_copy.default
_MOVES = {_VIEW, _aten.unsqueeze_copy.default, _aten.squeeze_copy.dims, _aten.permute_copy.default, _aten.cat.default} | {
    _aten.select_copy.int, _aten.slice_copy.Tensor, _aten.expand_copy.default
}  # fmt: skip


def lower(program: ExportedProgram) -> None:
    """Rewrite a program of the dialect in place.

    Raises:
        NoKernel: int8 values meet an operator that is not written for them.
    """
    drop_copies(program)
    pad_on_four_sides(program)
    fuse_padding(program)
    choose_kind(program)
    average_in_integers(program)
    refuse_others(program)
    size_scratch(program)
    program.graph.eliminate_dead_code()
    program.graph.lint()
    program.graph_module.recompile()
    drop_dead_constants(program)


def refuse_others(program: ExportedProgram) -> None:
    """Name what no int8 kernel is written for, before a runtime runs it on bytes that it takes for something else."""
    others = [n for n in program.graph.nodes if n.op == "call_function" and n.target not in _OURS and not _is_written(n)]
    names = {n: n.target.__name__.removesuffix(".default").removesuffix("_copy") for n in others}
    advised = [n for n in others if names[n].rpartition(".")[2] in _ADVICE]  # what is told apart may have kept its neighbours in float
    for node in [*advised, *others][:1]:
        layer, name = _layer(node), names[node]
        why, mend = _ADVICE.get(name.rpartition(".")[2], _OTHERS)
        raise NoKernel(
            f"operator {name.replace('.', '::')} in or behind {layer or 'an unnamed module'} has no int8 kernel", why, mend, layer
        )


def _is_written(node: fx.Node) -> bool:
    """Whether it meets no int8 value, or moves those that it meets as they lie."""
    values = [n.meta["val"] for n in (node, *node.all_input_nodes) if isinstance(n.meta.get("val"), Tensor)]
    if all(v.dtype != torch.int8 for v in values) or (node.target is _TRANSPOSE and len(node.args[1]) <= 4):
        return True
    read = values[1:]  # a view is content where all dimensions but one have one entry; a runtime asks for the strides
    plain = all(v.is_contiguous() if node.target is _VIEW else v.stride() == torch.empty(v.shape, device="meta").stride() for v in read)
    return node.target in _MOVES and plain


_OTHERS = ("what is not written for int8 would take its bytes for something else", "use another operation there")
_ADVICE = {
    "cat": ("the int8 kernels keep images channels last, and concatenate none", "add in place of concatenating"),
    "softmax": ("its table of exponentials would differ between cores", "end in the logits: softmax does not change which is largest"),
    "view": ("the int8 kernels keep images channels last: this would take channels for pixels", "flatten the image, or leave it an image"),
}


def drop_copies(program: ExportedProgram) -> None:
    """Copies of int8 images into the layout that they have already (what dropout leaves behind in inference), and padding by nothing."""
    clone, pad = edge_ops.edge.dim_order_ops._clone_dim_order.default, _cortex_m.pad.default
    for node in list(program.graph.nodes):
        same = node.target is clone and _alike(node, node.args[0]) and not any(u.op == "output" for u in node.users)
        if same or (node.target is pad and not any((*node.args[1], *node.args[2]))):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _alike(node: fx.Node, other: fx.Node) -> bool:
    """Whether two int8 values are the same bytes; where a dimension has one entry its stride says nothing."""
    a, b = node.meta["val"], other.meta["val"]
    same = a.dtype == b.dtype == torch.int8 and a.shape == b.shape
    return same and all(n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True))


def pad_on_four_sides(program: ExportedProgram) -> None:
    """Every convolution by our operator, its padding as (top, left, bottom, right)."""
    for node in program.graph.nodes:
        if node.target in _CONVS:
            node.target = _CONVS[node.target]
            node.args = (*node.args[:4], [*node.args[4]] * 2, *node.args[5:])


def fuse_padding(program: ExportedProgram) -> None:
    """``pad`` by the input's zero point, then a convolution or depthwise -> one operation."""
    for node in program.graph.nodes:
        padded = node.args[0] if node.target in (_CONV, _DEPTHWISE) else None
        if padded is None or padded.target is not _cortex_m.pad.default:
            continue
        source, before, after, value = padded.args
        if is_channels_last(source.meta["val"]):  # the dialect writes amounts in the order that it believes memory to have
            before, after = ([amounts[d] for d in (0, 3, 1, 2)] for amounts in (before, after))
        offset = node.args[6 if node.target is _CONV else 7]
        if value == -offset and not any((*before[:2], *after[:2])):  # neither samples nor channels are padded
            padding = [own + more for own, more in zip(node.args[4], (*before[2:], *after[2:]), strict=True)]
            node.args = (source, *node.args[1:4], padding, *node.args[5:])


def choose_kind(program: ExportedProgram) -> None:
    """Depthwise of one input channel -> convolution; groups of one channel -> depthwise. Weights change their layout along."""
    for node in list(program.graph.nodes):
        if node.target is _DEPTHWISE and node.args[0].meta["val"].shape[1] == 1:
            weight = _rearranged(program, node, (3, 1, 2, 0))  # (1, H, W, out) -> (out, H, W, 1)
            node.target = _CONV
            node.args = (node.args[0], weight, *node.args[2:6], *node.args[7:])
        elif node.target is _CONV and node.args[1].meta["val"].shape[3] == 1 < node.args[0].meta["val"].shape[1]:
            weight = _rearranged(program, node, (3, 1, 2, 0))  # (out, H, W, 1) -> (1, H, W, out)
            multiple = weight.meta["val"].shape[3] // node.args[0].meta["val"].shape[1]
            node.target = _DEPTHWISE
            node.args = (node.args[0], weight, *node.args[2:6], multiple, *node.args[6:])


def _rearranged(program: ExportedProgram, node: fx.Node, order: tuple[int, ...]) -> fx.Node:
    weight: Tensor = get_param_tensor(program, node.args[1])
    with program.graph.inserting_before(node.args[1]):
        new = weight.permute(order).contiguous()
        return create_constant_placeholder(program, program.graph, f"{node.name}_rearranged", InputKind.PARAMETER, new)


def average_in_integers(program: ExportedProgram) -> None:
    """Average pooling by our operator, whose reference rounds as its kernel does."""
    for node in program.graph.nodes:
        if node.target is _cortex_m.quantized_avg_pool2d.default:
            node.target = _AVERAGE
            node.args = (node.args[0], *(list(v) for v in node.args[1:4]), bool(node.args[4]))


def size_scratch(program: ExportedProgram) -> None:
    """Give each convolution what ``LFWD_CONV2D_S8_SCRATCH`` or ``LFWD_DEPTHWISE_S8_SCRATCH`` asks for."""
    for node in program.graph.nodes:
        if node.target is _CONV:
            _, *kernel, channels = node.args[1].meta["val"].shape
            _resize(node.args[12], 4 * math.prod(kernel) * channels + 16)
        elif node.target is _DEPTHWISE:
            _resize(node.args[13], node.args[0].meta["val"].shape[1] + 16)


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


def _layer(node: fx.Node) -> str:
    return (node.meta.get("custom") or {}).get("layer", "")
