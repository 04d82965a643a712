"""Float kernels against PyTorch over drawn shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import Axis, call
from torch.nn import functional as F

FAST = settings(max_examples=30, deadline=None)
small = st.integers(1, 7)


def close(got, expected, tolerance=1e-5):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@FAST
@given(m=small, k=small, n=st.integers(1, 11), seed=st.integers(0, 99))
def test_matrix_products(csrc, m, k, n, seed):
    torch.manual_seed(seed)
    a, b, bias, w = torch.randn(m, k), torch.randn(k, n), torch.randn(n), torch.randn(n, k)
    out = torch.empty(m, n)
    call(csrc.lfwd_mm_f32, a, b, m, k, n, out)
    close(out, a @ b)
    call(csrc.lfwd_addmm_f32, bias, 0, 1, a, b, m, k, n, 2.0, 0.5, out)
    close(out, torch.addmm(bias, a, b, beta=2, alpha=0.5))
    call(csrc.lfwd_linear_f32, a, w, bias, m, k, n, out)
    close(out, F.linear(a, w, bias))
    state, grad, x = torch.randn(n, k), torch.randn(m, n), torch.randn(m, k)
    expected = 0.9 * state - 0.1 * grad.T @ x
    call(csrc.lfwd_sgd_outer_f32, state, grad, x, m, n, k, 0.1, 0.9)
    close(state, expected)


@FAST
@given(h=st.integers(2, 8), w=st.integers(2, 8), k=st.integers(1, 3), s=st.integers(1, 3), count_pad=st.booleans(), seed=st.integers(0, 9))
def test_pooling_and_its_gradients(csrc, h, w, k, s, count_pad, seed):
    torch.manual_seed(seed)
    k = min(k, h, w)
    pad, x = k // 2, torch.randn(2, 3, h, w)
    average = F.avg_pool2d(x, k, s, pad, count_include_pad=count_pad)
    shape = [6, h, w, *average.shape[2:], k, k, s, s, pad, pad, 1, 1, int(count_pad), 0]
    out = torch.empty(average.shape)
    call(csrc.lfwd_avg_pool2d_f32, x, shape, out)
    close(out, average)
    grad, back = torch.randn(average.shape), torch.empty_like(x)
    call(csrc.lfwd_avg_pool2d_backward_f32, grad, shape, back)
    close(back, torch.ops.aten.avg_pool2d_backward(grad, x, [k, k], [s, s], [pad, pad], False, count_pad, None))
    top, index = F.max_pool2d(x, k, s, pad, return_indices=True)
    got_index = torch.empty(index.shape, dtype=torch.int64)
    call(csrc.lfwd_max_pool2d_f32, x, shape, out, got_index)
    assert torch.equal(out, top) and torch.equal(got_index, index)
    call(csrc.lfwd_max_pool2d_backward_f32, grad, index, 6, h * w, grad[0, 0].numel(), back)
    close(back, torch.ops.aten.max_pool2d_with_indices_backward(grad, x, [k, k], [s, s], [pad, pad], [1, 1], False, index))


@FAST
@given(h=small, w=small, out_h=small, out_w=small, seed=st.integers(0, 9))
def test_adaptive_pooling_of_sizes_that_need_not_divide(csrc, h, w, out_h, out_w, seed):
    torch.manual_seed(seed)
    x, size = torch.randn(2, 3, h, w), (min(out_h, h), min(out_w, w))
    shape, out, back = [6, h, w, *size, *[0] * 10], torch.empty(2, 3, *size), torch.empty_like(x)
    call(csrc.lfwd_adaptive_avg_pool2d_f32, x, shape, out)
    close(out, F.adaptive_avg_pool2d(x, size))
    grad = torch.randn_like(out)
    call(csrc.lfwd_adaptive_avg_pool2d_backward_f32, grad, shape, back)
    close(back, torch.ops.aten._adaptive_avg_pool2d_backward(grad, x))


@FAST
@given(groups=small, channels=small, inner=st.integers(2, 7), affine=st.booleans(), seed=st.integers(0, 9))
def test_group_norm(csrc, groups, channels, inner, affine, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, groups * channels, inner)
    weight, bias = (torch.randn(x.shape[1]), torch.randn(x.shape[1])) if affine else (None, None)
    out, mean, rstd = torch.empty_like(x), torch.empty(2, groups), torch.empty(2, groups)
    call(csrc.lfwd_group_norm_f32, x, weight, bias, Axis(2, x.shape[1], inner), groups, 1e-5, out, mean, rstd)
    expected = torch.native_group_norm(x, weight, bias, 2, x.shape[1], inner, groups, 1e-5)
    for got, want in zip((out, mean, rstd), expected, strict=True):
        close(got, want, 1e-4)


def test_gelu_and_elu(csrc):
    x = torch.linspace(-3, 3, 41)
    out = torch.empty_like(x)
    call(csrc.lfwd_gelu_f32, x, 41, out)
    close(out, F.gelu(x))
    call(csrc.lfwd_gelu_tanh_f32, x, 41, out)
    close(out, F.gelu(x, approximate="tanh"))
    call(csrc.lfwd_elu_f32, x, 41, 0.7, 1.5, 2.0, out)
    close(out, torch.ops.aten.elu(x, 0.7, 1.5, 2.0))


@FAST
@given(a=small, b=small, c=small, seed=st.integers(0, 99))
def test_broadcasting_reductions_and_softmax(csrc, a, b, c, seed):
    torch.manual_seed(seed)
    x, row, column = torch.randn(a, b, c), torch.randn(c), torch.randn(a, 1, 1)
    table = [[1, a, b, c], [[0, b * c, c, 1], [0, 0, 0, 1], [0, 0, 0, 0]]]
    out = torch.empty(a, b, c)
    for name, function in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul), ("div", torch.div), ("maximum", torch.maximum)):
        call(getattr(csrc, f"lfwd_{name}_f32"), x, row, table, out)
        close(out, function(x, row))
    mask = x > 0
    table[1] = [[0, b * c, c, 1], [0, b * c, c, 1], [0, 1, 0, 0]]
    call(csrc.lfwd_where_f32, mask, x, column, table, out)
    close(out, torch.where(mask, x, column))
    reduction = [[1, 1, b], [0, 0, c], [1, a, c], [0, b * c, 1]]  # keeps the middle dimension
    kept = torch.empty(b)
    for name, expected in (("sum", x.sum((0, 2))), ("mean", x.mean((0, 2))), ("amax", x.amax((0, 2))), ("amin", x.amin((0, 2)))):
        call(getattr(csrc, f"lfwd_{name}_f32"), x, reduction, kept)
        close(kept, expected)
    if a * c > 1:
        call(csrc.lfwd_var_f32, x, reduction, 1.0, kept)
        close(kept, x.var((0, 2)))
    call(csrc.lfwd_softmax_f32, x, Axis(a, b, c), out)
    close(out, x.softmax(1))
    call(csrc.lfwd_log_softmax_f32, x, Axis(a, b, c), out)
    close(out, x.log_softmax(1))
    top = torch.empty(a, c, dtype=torch.int64)
    call(csrc.lfwd_argmax_f32, x, Axis(a, b, c), top)
    assert torch.equal(top, x.argmax(1))
    k = 1 + seed % b
    values, index = torch.empty(a, k, c), torch.empty(a, k, c, dtype=torch.int64)
    call(csrc.lfwd_topk_f32, x, Axis(a, b, c), k, values, index)
    assert torch.equal(values, x.topk(k, 1).values) and torch.equal(x.gather(1, index), values)


UNARY = (
    "relu",
    "neg",
    "abs",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "sigmoid",
    "tanh",
    "sign",
    "erf",
    "sin",
    "cos",
    "floor",
)


@pytest.mark.parametrize("name", UNARY)
def test_unary(csrc, name):
    x = torch.linspace(-3, 3, 41)
    x = x.abs() + 0.1 if name in ("log", "log1p", "sqrt", "rsqrt") else x
    out = torch.empty_like(x)
    call(getattr(csrc, f"lfwd_{name}_f32"), x, x.numel(), out)
    close(out, getattr(torch, name)(x))


def test_moving(csrc):
    x = torch.arange(24.0).reshape(2, 3, 4)
    out = torch.empty(4, 2, 3)
    call(csrc.lfwd_copy_strided, x, [[1, 4, 2, 3], [0, 1, 12, 4], [0, 6, 3, 1]], 4, out)
    assert torch.equal(out, x.permute(2, 0, 1))


def test_a_label_out_of_range_reads_zero_and_writes_nothing(csrc):
    x, index = torch.randn(3, 4), torch.tensor([[2], [-1], [4]])
    out = torch.empty(3, 1)
    call(csrc.lfwd_gather_f32, x, Axis(3, 4, 1), index, 1, out)
    assert out.flatten().tolist() == [x[0, 2].item(), 0.0, 0.0]
    scattered = x.clone()
    call(csrc.lfwd_scatter_value_f32, x, Axis(3, 4, 1), index, 1, 9.0, scattered)
    expected = x.clone()
    expected[0, 2] = 9.0
    assert torch.equal(scattered, expected)


@FAST
@given(seed=st.integers(0, 999))
def test_integer_arithmetic_wraps_like_pytorch(csrc, seed):
    """The step's random numbers are hashes: products beyond 2**63 must wrap, not be undefined."""
    torch.manual_seed(seed)
    a, b = torch.randint(0, 2**32, (9,)), torch.full((9,), 0x846CA68B)
    table = [[1, 1, 1, 9], [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]]
    out = torch.empty(9, dtype=torch.int64)
    for name, function in (("mul", torch.mul), ("bitwise_xor", torch.bitwise_xor), ("remainder", torch.remainder)):
        call(getattr(csrc, f"lfwd_{name}_i64"), a, b, table, out)
        assert torch.equal(out, function(a, b))
    call(csrc.lfwd_shift_right_i64, a, torch.full((9,), 15), table, out)
    assert torch.equal(out, a >> 15)
