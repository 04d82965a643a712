"""What each node of a step graph does: multiply-accumulates, elementwise operations, bytes moved.

A MAC is one multiply and add of a convolution or matrix product (half a FLOP pair, as ``torch.utils.flop_counter`` / 2). An elementwise
operation is one arithmetic operation on one element. Views and copies are none; copies move bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from ..graph.elementwise_count import elementwise_count_of
from ..trace.step_graph import StepGraph
from ..trace.values import base_of, gradient_values, makes_nothing, operands_read, tensors_of
from .widths import Widths

aten = torch.ops.aten

_PER_OUTPUT = {  # arithmetic operations per output element, where it is not one
    aten._softmax: 4,  # maximum, subtraction with exponential, sum, quotient
    aten._log_softmax: 4,
    aten.addcmul: 3,
    aten.scatter: 0,
    aten.scatter_add: 1,
}
_PER_INPUT = {
    aten.var_mean: 4,
    aten.native_layer_norm: 6,
    aten.native_group_norm: 6,
    aten.cumsum: 1,
    aten.sort: 10,
    aten.topk: 10,
}
_COPIES = {
    aten.clone, aten.copy, aten._to_copy, aten.cat, aten.stack, aten.constant_pad_nd, aten.slice_scatter, aten.select_scatter,
    aten.gather, aten.index, aten.index_select, aten.index_put, aten.index_copy, aten.embedding, aten.full, aten.full_like, aten.zeros,
    aten.ones,
    aten.zeros_like, aten.ones_like, aten.empty, aten.empty_like, aten.empty_permuted, aten.new_zeros, aten.new_empty, aten.new_full,
    aten.scalar_tensor, aten.arange, aten.repeat, aten.flip, aten._unsafe_view, aten.upsample_nearest2d, aten.pixel_shuffle,
    aten.native_channel_shuffle, aten.channel_shuffle,
}  # fmt: skip
_POOLS = {aten.avg_pool2d, aten.avg_pool3d, aten.max_pool2d_with_indices, aten.max_pool3d_with_indices}


@dataclass(frozen=True)
class Operation:
    """One priced share of a node (the backward of a convolution has two: error to its input, and gradients of its weight and bias).

    Attributes:
        node, phase, layer: which, when, where.
        macs, elementwise: counts.
        read_bytes, written_bytes: of the whole tensors that it reads and writes, each once, weights included.
        arithmetic: "int8" or "fp32".
        constant_weights: one operand is a matrix that the step only reads, as an NPU takes it.
        assumed: the counts are a guess (one operation per output element): no rule for this operation.
    """

    node: str
    phase: str
    layer: str
    macs: int
    elementwise: int
    read_bytes: int
    written_bytes: int
    arithmetic: str
    constant_weights: bool
    assumed: bool = False


def operations(step: StepGraph, widths: Widths) -> Iterator[Operation]:
    """Price every node of the step, in order of execution."""
    gradients = gradient_values(step)
    frozen = {step.node(name) for name in step.state.keys() - set(step.mutated)}
    for node in step.graph.nodes:
        if makes_nothing(node):
            continue
        macs, elementwise, assumed = _count(node)
        stored = "streamed" not in node.meta
        sizes = [widths.bytes(node, i) * stored for i in range(len(tensors_of(node)))]
        arithmetic, phase = widths.arithmetic(node), node.meta["phase"]
        if arithmetic == "int8" and macs:  # requantisation of each accumulator that becomes an int8 value
            elementwise += sum(t.numel() for t, b in zip(tensors_of(node), sizes, strict=True) if t is not None and t.numel() == b)
        if any((node, i) in gradients for i in range(len(sizes))):
            phase = "update"
        shares = [(phase, macs, elementwise, operands_read(node), sum(sizes))]
        if node.target is aten.convolution_backward.default:
            shares = _shares_of_convolution_backward(node, macs, elementwise, sizes)
        for phase, macs, elementwise, operands, written in shares:
            values = {base_of(n) for n in operands}
            read = sum(widths.bytes(*v) for v in values if "streamed" not in v[0].meta)
            constant = any(base in frozen and base.meta["val"].ndim > 1 for base, _ in values)
            yield Operation(node.name, phase, node.meta["layer"], macs, elementwise, read, written, arithmetic, constant, assumed)


def _shares_of_convolution_backward(
    node: fx.Node, macs: int, elementwise: int, sizes: list[int]
) -> Iterator[tuple[str, int, int, list[fx.Node], int]]:
    """The error to the input, and the gradients of weight and bias: phase, MAC, elementwise operations, operands read, bytes written."""
    error, weight, bias = node.args[-1]
    sums = node.args[0].meta["val"].numel() if bias else 0
    if error:
        yield node.meta["phase"], macs, elementwise - sums, operands_read(node, (True, False, False)), sizes[0]
    if weight or bias:
        yield "update", macs if weight else 0, sums, operands_read(node, (False, weight, bias)), sizes[1] + sizes[2]


def _formula(packet: torch._ops.OpOverloadPacket) -> Callable | None:
    """What ``flop_registry`` knows: attention, whatever else torch has a formula for, and operators that brought their own.

    By name: an operator that is given another overload later (an out variant, for the exporter) is another object from then on.
    """
    name = packet._qualified_op_name
    return next((f for known, f in flop_registry.items() if getattr(known, "_qualified_op_name", None) == name), None)


def _count(node: fx.Node) -> tuple[int, int, bool]:
    """MAC, elementwise operations, and whether they are assumed; of the backward of a convolution, the MAC of one of its two parts."""
    packet, args = node.target.overloadpacket, node.args
    out = tensors_of(node)
    outputs = out[0].numel() if out and out[0] is not None else 0
    if packet is aten.convolution:
        return _convolution_macs(args[0].meta["val"], args[1].meta["val"], out[0], args[6]), 0, False
    if packet is aten.convolution_backward:
        grad, x, weight = (a.meta["val"] for a in args[:3])
        bias = grad.numel() if args[-1][2] else 0
        return _convolution_macs(x, weight, grad, args[7]) if any(args[-1][:2]) else 0, bias, False
    if packet in (aten.mm, aten.bmm):
        return outputs * args[0].meta["val"].shape[-1], 0, False
    if packet in (aten.addmm, aten.baddbmm):
        return outputs * args[1].meta["val"].shape[-1], 0, False
    if packet in (aten.mv, aten.dot):
        return args[0].meta["val"].numel(), 0, False
    formula, elementwise = _formula(packet), elementwise_count_of(node.target)
    if formula or elementwise:
        values = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        kwargs = {k: v.meta["val"] if isinstance(v, fx.Node) else v for k, v in node.kwargs.items()}
        macs = formula(*values, **kwargs, out_val=node.meta["val"]) // 2 if formula else 0
        return macs, elementwise(*values, **kwargs) if elementwise else 0, False
    if packet in _COPIES:
        return 0, 0, False
    if packet in _POOLS:
        return 0, outputs * math.prod(_spread(args[1], 2)), False
    if packet in _PER_OUTPUT:
        return 0, outputs * _PER_OUTPUT[packet], False
    inputs = max((t.numel() for n in node.all_input_nodes for t in tensors_of(n) if t is not None), default=0)
    if packet in _PER_INPUT:
        return 0, inputs * _PER_INPUT[packet], False
    if torch.Tag.reduction in node.target.tags or packet is aten._adaptive_avg_pool2d:
        return 0, inputs, False
    return 0, outputs, torch.Tag.pointwise not in node.target.tags


def _convolution_macs(x: Tensor, weight: Tensor, out: Tensor, transposed: bool) -> int:
    """Each output value takes a kernel's worth of products (transposed: each input value gives one)."""
    return (x.numel() if transposed else out.numel()) * math.prod(weight.shape[1:])


def _spread(kernel: list[int] | int, dims: int) -> list[int]:
    kernel = [kernel] if isinstance(kernel, int) else list(kernel)
    return kernel * dims if len(kernel) == 1 else kernel
