"""Matrix products, convolutions, pooling, normalisation and in-place updates in float."""

from __future__ import annotations

from ..pte import Tensor
from .kernels import Context, kernel, number
from .scratch import conv2d_scratch
from .shapes import axis, broadcast_strides


def _matrix(c: Context, t: Tensor, *shape: int) -> None:
    c.contiguous(t)
    c.require(t.shape == tuple(shape), f"a tensor has shape {t.shape}, expected {tuple(shape)}")


@kernel("aten::mm.out")
def _mm(c: Context) -> str:
    m, k, n = _product(c, c.tensor(0), c.tensor(1))
    return f"lfwd_mm_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {m}, {k}, {n}, {c.pointer(c.out, 'float')})"


def _product(c: Context, a: Tensor, b: Tensor) -> tuple[int, int, int]:
    c.require(len(a.shape) == len(b.shape) == 2, "operands are no matrices")
    (m, k), n = a.shape, b.shape[1]
    _matrix(c, a, m, k)
    _matrix(c, b, k, n)
    _matrix(c, c.out, m, n)
    return m, k, n


@kernel("aten::addmm.out")
def _addmm(c: Context) -> str:
    m, k, n = _product(c, c.tensor(1), c.tensor(2))
    row, column = broadcast_strides(c, c.tensor(0), (m, n))
    factors = f"{number(c.number(3), 'float')}, {number(c.number(4), 'float')}"
    operands = f"{c.p(0, 'float')}, {row}, {column}, {c.p(1, 'float')}, {c.p(2, 'float')}"
    return f"lfwd_addmm_f32({operands}, {m}, {k}, {n}, {factors}, {c.pointer(c.out, 'float')})"


@kernel("aten::bmm.out")
def _bmm(c: Context) -> str:
    a, b = c.tensor(0), c.tensor(1)
    c.require(len(a.shape) == len(b.shape) == 3, "operands are no batches of matrices")
    batch, m, k = a.shape
    n = b.shape[2]
    _matrix(c, a, batch, m, k)
    _matrix(c, b, batch, k, n)
    _matrix(c, c.out, batch, m, n)
    return f"lfwd_bmm_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {batch}, {m}, {k}, {n}, {c.pointer(c.out, 'float')})"


@kernel("aten::linear.out")
def _linear(c: Context) -> str:
    x, w, bias = c.tensor(0), c.tensor(1), c.arg(2)
    out_features, in_features = w.shape
    c.contiguous(x, c.out)
    _matrix(c, w, out_features, in_features)
    c.require(x.shape[-1:] == (in_features,) and c.out.shape == (*x.shape[:-1], out_features), "shapes do not match")
    c.require(bias is None or bias.shape == (out_features,), "bias does not match")
    rows = x.count // in_features
    pointers = f"{c.p(0, 'float')}, {c.p(1, 'float')}, {c.p(2, 'float')}"
    return f"lfwd_linear_f32({pointers}, {rows}, {in_features}, {out_features}, {c.pointer(c.out, 'float')})"


# ---- convolution


def _conv(c: Context, kind: str, x: Tensor, weight: Tensor, out: Tensor, first: int, groups: int) -> tuple[str, str]:
    """``lfwd_conv2d_shape`` and the scratch of a kernel of this kind.

    Args:
        first: position of stride among the arguments, padding and dilation behind it; groups: position of the number of groups.
    """
    fields = conv_fields(c, x, weight, out, c.ints(first), c.ints(first + 1), c.ints(first + 2), c.number(groups))
    return c.table("lfwd_conv2d_shape", fields), c.scratch(4 * conv2d_scratch(kind, fields))


def conv_fields(c: Context, x: Tensor, weight: Tensor, out: Tensor, stride, padding, dilation, groups: int) -> list[int]:
    """Fields of ``lfwd_conv2d_shape``; a 1-d convolution is a 2-d one of height 1."""
    c.contiguous(x, weight, out)
    c.require(len(x.shape) in (3, 4) and len(weight.shape) == len(out.shape) == len(x.shape), "not a 1-d or 2-d convolution")
    spatial = len(x.shape) - 2
    values = [list(v) * spatial if len(v) == 1 else list(v) for v in (stride, padding, dilation)]
    c.require(all(len(v) == spatial for v in values), "stride, padding or dilation has the wrong length")
    lead = [[1] * (2 - spatial), [0] * (2 - spatial), [1] * (2 - spatial)]
    stride, padding, dilation = (a + v for a, v in zip(lead, values, strict=True))
    in_h, in_w = [1] * (2 - spatial) + list(x.shape[2:])
    out_h, out_w = [1] * (2 - spatial) + list(out.shape[2:])
    k_h, k_w = [1] * (2 - spatial) + list(weight.shape[2:])
    batch, in_c, out_c = x.shape[0], x.shape[1], weight.shape[0]
    c.require(min(*stride, *dilation, groups, k_h, k_w) >= 1 and min(padding) >= 0, "bad stride, padding, dilation or groups")
    c.require(in_c % groups == 0 == out_c % groups and weight.shape[1] * groups == in_c, "groups do not divide the channels")
    expected = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip((in_h, in_w), padding, dilation, (k_h, k_w), stride, strict=True)
    ]
    c.require([out_h, out_w] == expected and out.shape[:2] == (batch, out_c), f"output {out.shape} does not follow from the input")
    if in_w == k_w == 1 and padding[1] == 0:  # one column is one row in memory, which the kernels take four at a time
        in_h, in_w, out_h, out_w, k_h, k_w = in_w, in_h, out_w, out_h, k_w, k_h
        stride, padding, dilation = stride[::-1], padding[::-1], dilation[::-1]
    return [batch, in_c, in_h, in_w, out_c, out_h, out_w, k_h, k_w, *stride, *padding, *dilation, groups]


@kernel("aten::convolution.out")
def _convolution(c: Context) -> str:
    x, w = c.tensor(0), c.tensor(1)
    if c.arg(6):  # transposed: what a convolution's input gradient computes
        c.require(c.arg(2) is None, "transposed convolution with a bias")
        shape, work = _conv(c, "grad_input", c.out, w, x, 3, 8)
        return f"lfwd_conv2d_grad_input_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {shape}, {work}, {c.pointer(c.out, 'float')})"
    shape, work = _conv(c, "forward", x, w, c.out, 3, 8)
    c.require(c.arg(2) is None or c.tensor(2).count == w.shape[0], "bias does not match")
    pointers = f"{c.p(0, 'float')}, {c.p(1, 'float')}, {c.p(2, 'float')}"
    return f"lfwd_conv2d_f32({pointers}, {shape}, {work}, {c.pointer(c.out, 'float')})"


@kernel("aten::convolution_backward.out")
def _convolution_backward(c: Context) -> str:
    raise c.fail(f"gradient of a {'transposed' if c.arg(7) else f'{len(c.tensor(1).shape) - 2}-d'} convolution")


@kernel("lfwd::conv2d_grad_input.out")
def _conv2d_grad_input(c: Context) -> str:
    shape, work = _conv(c, "grad_input", c.out, c.tensor(1), c.tensor(0), 3, 6)
    return f"lfwd_conv2d_grad_input_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {shape}, {work}, {c.pointer(c.out, 'float')})"


@kernel("lfwd::conv2d_grad_weight.out")
def _conv2d_grad_weight(c: Context) -> str:
    shape, work = _conv(c, "update", c.tensor(1), c.out, c.tensor(0), 3, 6)
    return f"lfwd_conv2d_grad_weight_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {shape}, {work}, {c.pointer(c.out, 'float')})"


# ---- updates in place: state = decay * state - lr * gradient


def _rates(c: Context, lr: int, decay: int) -> str:
    return f"{c.unit.rate(c.number(lr))}, {number(c.number(decay), 'float')}"


@kernel("lfwd::sgd_.")
def _sgd(c: Context) -> str:
    state, grad = c.tensor(0), c.tensor(1)
    c.require(state.shape == grad.shape and state.strides == grad.strides, "gradient and state differ in shape or layout")
    return f"lfwd_sgd_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {state.count}, {_rates(c, 2, 3)})"


@kernel("lfwd::sgd_outer_.")
def _sgd_outer(c: Context) -> str:
    state, grad, x = c.tensor(0), c.tensor(1), c.tensor(2)
    c.require(len(grad.shape) == len(x.shape) == 2 and grad.shape[0] == x.shape[0], "operands are no matrices of equal rows")
    c.contiguous(grad, x)
    _matrix(c, state, grad.shape[1], x.shape[1])
    pointers = f"{c.p(0, 'float')}, {c.p(1, 'float')}, {c.p(2, 'float')}"
    return f"lfwd_sgd_outer_f32({pointers}, {x.shape[0]}, {grad.shape[1]}, {x.shape[1]}, {_rates(c, 3, 4)})"


@kernel("lfwd::sgd_part_.")
def _sgd_part(c: Context) -> str:
    state, grad, index, dim = c.tensor(0), c.tensor(1), c.tensor(2), c.dim(3, len(c.tensor(0).shape))
    c.contiguous(state, grad)
    c.require(grad.shape == (*state.shape[:dim], index.count, *state.shape[dim + 1 :]), "gradient and index do not match the state")
    pointers = f"{c.p(1, 'float')}, {c.p(2, 'int64_t')}, {index.count}, {_rates(c, 4, 5)}"
    return f"lfwd_sgd_part_f32({c.p(0, 'float')}, {axis_of(state, dim)}, {pointers})"


@kernel("lfwd::sgd_conv2d_.")
def _sgd_conv2d(c: Context) -> str:
    state, grad, x = c.tensor(0), c.tensor(1), c.tensor(2)
    shape, work = _conv(c, "update", x, state, grad, 5, 8)
    return f"lfwd_sgd_conv2d_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {c.p(2, 'float')}, {shape}, {_rates(c, 3, 4)}, {work})"


# ---- pooling and normalisation


def _pool(c: Context, x: Tensor, out: Tensor, kernel_size, stride, padding, dilation, count_pad: int, divisor: int) -> str:
    c.contiguous(x, out)
    stride = stride or kernel_size
    c.require(len(x.shape) in (3, 4) and x.shape[:-2] == out.shape[:-2], "not a 2-d pooling")
    c.require(min(*kernel_size, *stride, *dilation) >= 1 and min(padding) >= 0 and divisor >= 0, "bad window")
    for n, m, k, s, p in zip(x.shape[-2:], out.shape[-2:], kernel_size, stride, padding, strict=True):
        c.require(2 * p <= k and (m - 1) * s - p < n, "windows outside the image")
    planes = out.count // (out.shape[-1] * out.shape[-2])
    fields = [planes, *x.shape[-2:], *out.shape[-2:], *kernel_size, *stride, *padding, *dilation, count_pad, divisor]
    return c.table("lfwd_pool2d_shape", fields)


def _pair(c: Context, k: int, empty_ok: bool = False) -> list[int]:
    values = c.ints(k)
    return [] if empty_ok and not values else c.ints(k, 2)


@kernel("aten::max_pool2d_with_indices.out")
def _max_pool(c: Context) -> str:
    out, index = c.tensor(6), c.tensor(7)
    c.require(index.shape == out.shape, "index shape does not match")
    shape = _pool(c, c.tensor(0), out, _pair(c, 1), _pair(c, 2, True), _pair(c, 3), _pair(c, 4), 0, 0)
    return f"lfwd_max_pool2d_f32({c.p(0, 'float')}, {shape}, {c.pointer(out, 'float')}, {c.pointer(index, 'int64_t')})"


@kernel("lfwd::max_pool2d_backward.out")
def _max_pool_backward(c: Context) -> str:
    grad, index, out = c.tensor(0), c.tensor(2), c.out
    c.contiguous(grad, index, out)
    c.require(len(grad.shape) in (3, 4) and grad.shape[:-2] == out.shape[:-2] and index.shape == grad.shape, "shapes do not match")
    planes, image = grad.count // (grad.shape[-2] * grad.shape[-1]), out.shape[-2] * out.shape[-1]
    sizes = f"{planes}, {image}, {grad.shape[-2] * grad.shape[-1]}"
    return f"lfwd_max_pool2d_backward_f32({c.p(0, 'float')}, {c.p(2, 'int64_t')}, {sizes}, {c.pointer(out, 'float')})"


@kernel("aten::avg_pool2d.out")
def _avg_pool(c: Context) -> str:
    divisor = c.arg(6) or 0
    shape = _pool(c, c.tensor(0), c.out, _pair(c, 1), _pair(c, 2, True), _pair(c, 3), [1, 1], int(bool(c.arg(5))), divisor)
    return f"lfwd_avg_pool2d_f32({c.p(0, 'float')}, {shape}, {c.pointer(c.out, 'float')})"


def _adaptive(c: Context, image: Tensor, pooled: Tensor) -> str:
    c.contiguous(image, pooled)
    c.require(len(image.shape) in (3, 4) and image.shape[:-2] == pooled.shape[:-2], "not a 2-d pooling")
    c.require(all(0 < m <= n for n, m in zip(image.shape[-2:], pooled.shape[-2:], strict=True)), f"pools {image.shape} to {pooled.shape}")
    planes = pooled.count // (pooled.shape[-1] * pooled.shape[-2])
    sizes = [planes, *image.shape[-2:], *pooled.shape[-2:]]
    return c.table("lfwd_pool2d_shape", sizes + [0] * 10)  # a window follows from the sizes alone


@kernel("aten::_adaptive_avg_pool2d.out")
def _adaptive_avg_pool(c: Context) -> str:
    return f"lfwd_adaptive_avg_pool2d_f32({c.p(0, 'float')}, {_adaptive(c, c.tensor(0), c.out)}, {c.pointer(c.out, 'float')})"


@kernel("lfwd::adaptive_avg_pool2d_backward.out")
def _adaptive_avg_pool_backward(c: Context) -> str:
    return f"lfwd_adaptive_avg_pool2d_backward_f32({c.p(0, 'float')}, {_adaptive(c, c.out, c.tensor(0))}, {c.pointer(c.out, 'float')})"


@kernel("lfwd::avg_pool2d_backward.out")
def _avg_pool_backward(c: Context) -> str:
    grad, count_pad = c.tensor(0), int(bool(c.arg(6)))
    shape = _pool(c, c.out, grad, _pair(c, 2), _pair(c, 3, True), _pair(c, 4), [1, 1], count_pad, c.arg(7) or 0)
    return f"lfwd_avg_pool2d_backward_f32({c.p(0, 'float')}, {shape}, {c.pointer(c.out, 'float')})"


@kernel("aten::_native_batch_norm_legit_no_training.out")
def _batch_norm(c: Context) -> str:
    x, out = c.tensor(0), c.tensor(7)
    c.contiguous(x, out)
    c.require(all(t is None or t.count == x.shape[1] for t in map(c.arg, range(1, 5))), "statistics do not match the channels")
    pointers = ", ".join(c.p(k, "float") for k in range(5))
    eps = number(c.number(6), "float")
    return f"lfwd_batch_norm_f32({pointers}, {eps}, {axis_of(x, 1)}, {c.pointer(out, 'float')})"


@kernel("aten::native_layer_norm.out")
def _layer_norm(c: Context) -> str:
    x, width = c.tensor(0), 1
    for n in c.ints(1):
        width *= n
    outs = [c.tensor(k) for k in (5, 6, 7)]
    c.contiguous(x, *outs)
    c.require(width > 0 and x.count % width == 0 and outs[1].count == outs[2].count == x.count // width, "shapes do not match")
    affine = f"{c.p(2, 'float')}, {c.p(3, 'float')}"
    results = ", ".join(c.pointer(t, "float") for t in outs)
    eps = number(c.number(4), "float")
    return f"lfwd_layer_norm_f32({c.p(0, 'float')}, {affine}, {x.count // width}, {width}, {eps}, {results})"


@kernel("aten::native_group_norm.out")
def _group_norm(c: Context) -> str:
    x, groups = c.tensor(0), c.number(6)
    outs = [c.tensor(k) for k in (8, 9, 10)]
    c.contiguous(x, *outs)
    c.require(len(x.shape) > 1 and groups > 0 and x.shape[1] % groups == 0 < x.count, "groups do not divide the channels")
    c.require(outs[0].shape == x.shape and outs[1].count == outs[2].count == x.shape[0] * groups, "shapes do not match")
    c.require(all(t is None or t.count == x.shape[1] for t in map(c.arg, (1, 2))), "weight or bias do not match the channels")
    results = ", ".join(c.pointer(t, "float") for t in outs)
    eps = number(c.number(7), "float")
    return f"lfwd_group_norm_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {c.p(2, 'float')}, {axis_of(x, 1)}, {groups}, {eps}, {results})"


def axis_of(t: Tensor, dim: int) -> str:
    """An ``lfwd_axis`` argument."""
    outer, size, inner = axis(t, dim)
    return f"(lfwd_axis){{{outer}, {size}, {inner}}}"
