"""Int8 kernels against integer arithmetic in PyTorch, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call
from lightning_fwd_export import ops_int8  # noqa: F401  (defines lfwd::quantized_*)
from torch.nn import functional as F

FAST = settings(max_examples=40, deadline=None)


def requantise(value, multiplier, shift):
    """Independent form of the double rounding: half up at 2**31, half away from zero at the right shift."""
    value, multiplier, shift = (t.to(torch.int64) for t in torch.broadcast_tensors(value, multiplier, shift))
    high = (value * (1 << shift.clamp(min=0)) * multiplier + (1 << 30)) >> 31
    right = (-shift).clamp(min=0)
    half = torch.where(right > 0, 1 << (right - 1).clamp(min=0), 0)
    return torch.where(high >= 0, (high + half) >> right, -((-high + half) >> right))


def rand_s8(shape, generator):
    return torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)


@st.composite
def convolutions(draw):
    k_h, k_w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return {
        "size": (draw(st.integers((k_h - 1) * dilation[0] + 1, 9)), draw(st.integers((k_w - 1) * dilation[1] + 1, 9))),
        "in_c": draw(st.integers(1, 9)),
        "out_c": draw(st.integers(1, 7)),
        "k": (k_h, k_w),
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
        "dilation": dilation,
        "batch": draw(st.integers(1, 2)),
        "offset": draw(st.integers(-127, 128)),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
        "depthwise": draw(st.booleans()),
        "multiple": draw(st.integers(1, 3)),
    }


@FAST
@given(c=convolutions())
def test_convolutions_equal_integer_arithmetic_and_their_operators(csrc, c):
    """Three ways: the C kernel, float64 with the rounding of this file, and the operator's own reference."""
    g = torch.Generator().manual_seed(c["seed"])
    depthwise, offset = c["depthwise"], c["offset"]
    in_c, out_c = c["in_c"], c["in_c"] * c["multiple"] if depthwise else c["out_c"]
    x = rand_s8((c["batch"], in_c, *c["size"]), g)
    w = rand_s8((out_c, 1 if depthwise else in_c, *c["k"]), g)
    bias = torch.randint(-2000, 2000, (out_c,), generator=g, dtype=torch.int32) if c["bias"] else None
    multiplier = torch.randint(2**30, 2**31 - 1, (out_c,), generator=g, dtype=torch.int32)
    shift = torch.randint(-12, 2, (out_c,), generator=g, dtype=torch.int32)
    top, left, bottom, right = c["pads"]
    padded = F.pad((x.double() + offset), (left, right, top, bottom))  # a padded position is the zero point, hence 0 here
    exact = F.conv2d(padded, w.double(), None, c["stride"], 0, c["dilation"], in_c if depthwise else 1).to(torch.int64)
    exact += 0 if bias is None else bias.view(1, -1, 1, 1)
    expected = (requantise(exact, multiplier.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)) - 3).clamp(-100, 110).to(torch.int8)
    fields = [c["batch"], *c["size"], in_c, *exact.shape[2:], out_c, *c["k"], w.shape[1], *c["stride"], top, left, *c["dilation"]]
    fields += [offset, -3, -100, 110, 0]
    start = (w.flatten(1).sum(1) * offset + (0 if bias is None else bias)).to(torch.int32)
    weight, operator, more = w.permute(0, 2, 3, 1).contiguous(), torch.ops.lfwd.quantized_conv2d, ()
    if depthwise:
        weight, operator, more = w.permute(1, 2, 3, 0).contiguous(), torch.ops.lfwd.quantized_depthwise_conv2d, (c["multiple"],)
    out = torch.empty((c["batch"], *exact.shape[2:], out_c), dtype=torch.int8)
    kernel = csrc.lfwd_depthwise_conv2d_s8 if depthwise else csrc.lfwd_conv2d_s8
    call(kernel, fields, x.permute(0, 2, 3, 1).contiguous(), weight, start, multiplier, shift, None, 0, out)
    assert torch.equal(out.permute(0, 3, 1, 2), expected)
    geometry, bounds = (list(c["stride"]), c["pads"], list(c["dilation"]), *more), (-100, 110, torch.empty(1, dtype=torch.uint8))
    assert torch.equal(operator(x, weight, bias, *geometry, offset, -3, multiplier, shift, *bounds), expected)


@FAST
@given(rows=st.integers(1, 4), n_in=st.integers(1, 40), n_out=st.integers(1, 9), seed=st.integers(0, 999))
def test_linear_equals_integer_arithmetic(csrc, rows, n_in, n_out, seed):
    g = torch.Generator().manual_seed(seed)
    x, w = rand_s8((rows, n_in), g), rand_s8((n_out, n_in), g)
    bias = torch.randint(-999, 999, (n_out,), generator=g, dtype=torch.int32)
    exact = (x.double() + 7) @ (w.double() + 2).T + bias
    start = (bias + 7 * (w.int() + 2).sum(1)).to(torch.int32)
    multiplier, shift = 1_500_000_000, -9
    expected = (requantise(exact.long(), torch.tensor(multiplier), torch.tensor(shift)) + 5).clamp(-128, 127).to(torch.int8)
    out = torch.empty((rows, n_out), dtype=torch.int8)
    call(csrc.lfwd_linear_s8, [rows, n_in, n_out, 2, 5, multiplier, shift, -128, 127, 0], x, w, start, out)
    assert torch.equal(out, expected)


@FAST
@given(n=st.integers(1, 50), seed=st.integers(0, 999), shift=st.integers(-6, 0))
def test_add_equals_integer_arithmetic(csrc, n, seed, shift):
    g = torch.Generator().manual_seed(seed)
    a, b = rand_s8((n,), g), rand_s8((n,), g)
    m = [1_073_741_824, 1_900_000_000, 2_000_000_001]
    u = requantise((a.long() + 4) << 20, torch.tensor(m[0]), torch.tensor(shift))
    v = requantise((b.long() - 9) << 20, torch.tensor(m[1]), torch.tensor(-1))
    expected = (requantise(u + v, torch.tensor(m[2]), torch.tensor(-19)) + 3).clamp(-128, 120).to(torch.int8)
    out = torch.empty(n, dtype=torch.int8)
    call(csrc.lfwd_add_s8, [-4, m[0], shift, 9, m[1], -1, 3, m[2], -19, -128, 120], a, b, n, out)
    assert torch.equal(out, expected)


@FAST
@given(h=st.integers(2, 8), w=st.integers(2, 8), c=st.integers(1, 5), k=st.integers(1, 3), s=st.integers(1, 3), seed=st.integers(0, 99))
def test_pools_equal_integer_arithmetic(csrc, h, w, c, k, s, seed):
    k = min(k, h, w)
    pad = k // 2
    x = rand_s8((2, c, h, w), torch.Generator().manual_seed(seed))
    mean = F.avg_pool2d(x.double(), k, s, pad, count_include_pad=False)
    rounded = torch.where(mean >= 0, (mean + 0.5 + 1e-9).floor(), (mean - 0.5 - 1e-9).ceil()).to(torch.int8)
    top = F.max_pool2d(x.double(), k, s, pad).to(torch.int8)
    fields = [2, h, w, c, *mean.shape[2:], k, k, s, s, pad, pad, -128, 127]
    for function, expected in ((csrc.lfwd_avg_pool2d_s8, rounded), (csrc.lfwd_max_pool2d_s8, top)):
        out = torch.empty((2, *mean.shape[2:], c), dtype=torch.int8)
        call(function, fields, x.permute(0, 2, 3, 1).contiguous(), out)
        assert torch.equal(out.permute(0, 3, 1, 2), expected)


@FAST
@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 10.0), zero_point=st.integers(-128, 127))
def test_quantisation_equals_pytorch(csrc, seed, scale, zero_point):
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 100 * scale
    scale = float(torch.tensor(scale, dtype=torch.float32))
    expected = torch.ops.quantized_decomposed.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
    out, back = torch.empty(64, dtype=torch.int8), torch.empty(64)
    call(csrc.lfwd_quantize_s8, x, 64, scale, zero_point, -128, 127, out)
    call(csrc.lfwd_dequantize_s8, out, 64, scale, zero_point, back)
    assert torch.equal(out, expected)
    assert torch.equal(back, (out.float() - zero_point) * scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_quantising_a_wild_value_saturates(csrc, value):
    out = torch.empty(1, dtype=torch.int8)
    call(csrc.lfwd_quantize_s8, torch.tensor([value]), 1, 0.1, 5, -128, 127, out)
    assert out.item() == (127 if value > 0 else -128)


def test_pad_clamp_and_lookup(csrc):
    x = rand_s8((1, 3, 2, 4), torch.Generator().manual_seed(0))
    out = torch.empty((1, 6, 3, 5), dtype=torch.int8)
    call(csrc.lfwd_pad_s8, x, [1, 3, 2, 4], [0, 1, 0, 1], [0, 2, 1, 0], 7, out)
    assert torch.equal(out, F.pad(x, (1, 0, 0, 1, 1, 2), value=7))
    table = torch.arange(256).flip(0).to(torch.uint8).view(torch.int8)
    looked_up, clamped = torch.empty_like(x), torch.empty_like(x)
    call(csrc.lfwd_clamp_s8, x, x.numel(), -3, 20, clamped)
    assert torch.equal(clamped, x.clamp(-3, 20))
    call(csrc.lfwd_lookup_s8, x, table, x.numel(), looked_up)
    assert torch.equal(looked_up, table[x.long() + 128])
