"""How operations that small devices have no kernel for are written in ones that they have.

Layers keep their own operations (``convolution``, ``convolution_backward``, ``mm``, ``addmm``), so that they can be priced and dispatched.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions

from ..graph.operand import operand

aten = torch.ops.aten


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape([1, -1, *[1] * (x.ndim - 2)])


def batch_norm(x, weight, bias, running_mean, running_var, training: bool, momentum: float, eps: float):
    """Batch norm as one affine map per channel; in training also the new statistics."""
    if training:
        dims = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x, dims, correction=0)
        if running_mean is not None:
            count = x.numel() / x.shape[1]
            running_mean.copy_(running_mean * (1 - momentum) + mean * momentum)
            running_var.copy_(running_var * (1 - momentum) + var * (momentum * count / max(count - 1, 1)))
    else:
        mean, var = running_mean, running_var
    inverse = torch.rsqrt(var + eps)
    scale = inverse if weight is None else inverse * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    y = x * _per_channel(scale, x) + _per_channel(shift, x)
    return (y, mean, inverse) if training else (y, x.new_empty(0), x.new_empty(0))


def batch_norm_backward(grad, x, weight, running_mean, running_var, save_mean, save_invstd, train: bool, eps: float, mask: list[bool]):
    """Gradients of input, weight and bias. With stored statistics the input's is one product per element."""
    dims, count = [0, *range(2, x.ndim)], x.numel() // x.shape[1]
    mean = save_mean if train else running_mean
    inverse = save_invstd if train else torch.rsqrt(running_var + eps)
    scale = inverse if weight is None else inverse * weight
    grad_bias = grad.sum(dims) if mask[2] or train else None
    normalised_sum = None
    if mask[1] or train:  # sum of grad * (x - mean), without a normalised copy of x
        normalised_sum = (grad * x).sum(dims) - (grad.sum(dims) if grad_bias is None else grad_bias) * mean
    grad_input = None
    if mask[0]:
        grad_input = grad * _per_channel(scale, x)
        if normalised_sum is not None and grad_bias is not None and train:
            slope = -scale * inverse * inverse * normalised_sum / count
            offset = -scale * grad_bias / count - slope * mean
            grad_input = grad_input + (x * _per_channel(slope, x) + _per_channel(offset, x))
    return grad_input, normalised_sum * inverse if normalised_sum is not None and mask[1] else None, grad_bias if mask[2] else None


def _spread(grad: Tensor, kernel: list[int], size: torch.Size) -> Tensor:
    """Each gradient to the ``kernel`` positions of its window, windows side by side: ``(B, C, h, w) -> (B, C, h kh, w kw)``."""
    b, c, h, w = grad.shape
    spread = grad.reshape(b, c, h, 1, w, 1).expand(b, c, h, kernel[0], w, kernel[1])
    spread = spread.reshape(b, c, h * kernel[0], w * kernel[1])
    rest = [0, size[3] - spread.shape[3], 0, size[2] - spread.shape[2]]
    return torch.nn.functional.pad(spread, rest) if any(rest) else spread


def avg_pool2d_backward(grad, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """Average pooling with windows side by side (what the networks use); others stay one operation."""
    kernel = [kernel_size[0], kernel_size[-1]]
    if (stride and [stride[0], stride[-1]] != kernel) or any(padding) or ceil_mode or divisor_override or x.ndim != 4:
        return NotImplemented
    return _spread(grad / (kernel[0] * kernel[1]), kernel, x.shape)


def adaptive_avg_pool2d_backward(grad, x):
    """Adaptive average pooling where the output size divides the input's."""
    if x.ndim != 4 or x.shape[2] % grad.shape[2] or x.shape[3] % grad.shape[3]:
        return NotImplemented
    kernel = [x.shape[2] // grad.shape[2], x.shape[3] // grad.shape[3]]
    return _spread(grad / (kernel[0] * kernel[1]), kernel, x.shape)


_KEEP = (aten.addmm, aten.baddbmm, aten.addcmul, aten.var_mean, aten.convolution_backward)

DEVICE_DECOMPOSITIONS = {
    op: function for op, function in core_aten_decompositions().items() if getattr(op, "overloadpacket", op) not in _KEEP
} | {
    aten.native_batch_norm.default: batch_norm,
    aten.native_batch_norm_backward.default: batch_norm_backward,
    aten.avg_pool2d_backward.default: avg_pool2d_backward,
    aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool2d_backward,
}


_IDENTITIES = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)


def remove_identities(graph: fx.Graph) -> None:
    """Take out what autograd leaves behind and no device needs: aliases, a transpose of a transpose."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if not node.args or not isinstance(source := node.args[0], fx.Node):
            continue
        if node.target in _IDENTITIES:
            node.replace_all_uses_with(source)
        elif node.target is aten.permute.default and source.target is aten.permute.default:
            inner, outer = ([d % len(dims) for d in dims] for dims in (cast(list[int], n.args[1]) for n in (source, node)))
            if [inner[d] for d in outer] == list(range(len(outer))):
                node.replace_all_uses_with(operand(source))
        elif node.target is aten.view.default and node.meta["val"].shape == source.meta["val"].shape:
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()
