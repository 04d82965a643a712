"""Float convolutions, their gradients and updates against PyTorch over drawn shapes: every path, and never beyond the scratch that was
planned."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import call
from lightning_fwd_export.c_code.scratch import conv2d_scratch
from torch.nn import functional as F

FAST = settings(max_examples=80, deadline=None)
CANARY = 12345.0


def close(got, expected, tolerance=1e-5):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@st.composite
def convolutions(draw):
    """Dense, grouped and depthwise, this also with the usual filter and with long rows; one pixel to several blocks of four; any stride,
    padding and dilation."""
    kind = draw(st.sampled_from(("dense", "grouped", "depthwise", "usual", "long", "pointwise")))
    groups = 1 if kind in ("dense", "pointwise") else draw(st.integers(2, 5))
    in_each, out_each = (draw(st.integers(1, 9)), draw(st.integers(1, 9))) if kind in ("dense", "grouped", "pointwise") else (1, 1)
    if kind == "usual":  # 3 x 3, strides 1 and 2: each has kernels of its own
        pad, stride = draw(st.integers(0, 1)), draw(st.integers(1, 2))
        sizes = {"h": draw(st.integers(3 - 2 * pad, 7)), "w": draw(st.integers(3 - 2 * pad, 19))}
        geometry = {"kernel": (3, 3), "stride": (stride, stride), "pad": (pad, pad), "dilation": (1, 1)}
        same = {"batch": draw(st.integers(1, 2)), "in_c": groups, "out_c": groups, "groups": groups, "seed": draw(st.integers(0, 99))}
        return same | sizes | geometry
    kernel = (1, 1) if kind == "pointwise" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    kernel = (draw(st.integers(1, 2)), draw(st.integers(4, 20))) if kind == "long" else kernel
    pad = (draw(st.integers(0, 2)), draw(st.integers(0, 2))) if kind != "pointwise" or draw(st.booleans()) else (0, 0)
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    least = [max((k - 1) * d + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, pad, strict=True)]
    return {
        "batch": draw(st.integers(1, 2)),
        "in_c": groups * in_each,
        "out_c": groups * out_each,
        "h": draw(st.integers(least[0], max(least[0], 7))),
        "w": draw(st.integers(least[1], max(least[1], 13))),
        "kernel": kernel,
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))) if draw(st.booleans()) else (1, 1),
        "pad": pad,
        "dilation": dilation,
        "groups": groups,
        "seed": draw(st.integers(0, 99)),
    }


def with_scratch(csrc, function, planned, *args):
    """Call a kernel that takes scratch as the argument before its last where ``args`` says ``"scratch"``; nothing beyond it may change."""
    scratch = torch.full((planned + 8,), CANARY)
    call(getattr(csrc, function), *(scratch if a is WORK else a for a in args))
    assert (scratch[planned:] == CANARY).all()


WORK = object()


@FAST
@given(c=convolutions())
def test_convolution_and_its_gradients(csrc, c):
    torch.manual_seed(c["seed"])
    x = torch.randn(c["batch"], c["in_c"], c["h"], c["w"])
    w, b = torch.randn(c["out_c"], c["in_c"] // c["groups"], *c["kernel"]), torch.randn(c["out_c"])
    geometry = (c["stride"], c["pad"], c["dilation"])
    expected = F.conv2d(x, w, b, *geometry, c["groups"])
    shape = [*x.shape, c["out_c"], *expected.shape[2:], *c["kernel"], *(n for pair in geometry for n in pair), c["groups"]]
    forward, grad_input, update = (conv2d_scratch(kind, shape) for kind in ("forward", "grad_input", "update"))
    out = torch.full(expected.shape, torch.nan)
    with_scratch(csrc, "lfwd_conv2d_f32", forward, x, w, b, shape, WORK, out)
    close(out, expected, 1e-4)
    grad = torch.randn(expected.shape)
    gi, gw, _ = torch.ops.aten.convolution_backward(grad, x, w, None, *geometry, False, [0, 0], c["groups"], [True, True, False])
    got = torch.full(gi.shape, torch.nan)
    with_scratch(csrc, "lfwd_conv2d_grad_input_f32", grad_input, grad, w, shape, WORK, got)
    close(got, gi, 1e-4)
    got = torch.full(gw.shape, torch.nan)
    with_scratch(csrc, "lfwd_conv2d_grad_weight_f32", update, grad, x, shape, WORK, got)
    close(got, gw, 1e-4)
    updated = w.clone()
    with_scratch(csrc, "lfwd_sgd_conv2d_f32", update, updated, grad, x, shape, 0.1, 0.5, WORK)
    close(updated, 0.5 * w - 0.1 * gw, 1e-4)


@FAST
@given(c=convolutions())
def test_scratch_is_planned_as_the_kernels_ask(csrc, c):
    x = torch.empty(1, c["in_c"], c["h"], c["w"], device="meta")
    w = torch.empty(c["out_c"], c["in_c"] // c["groups"], *c["kernel"], device="meta")
    geometry = (c["stride"], c["pad"], c["dilation"])
    size = F.conv2d(x, w, None, *geometry, c["groups"]).shape[2:]
    shape = [c["batch"], *x.shape[1:], c["out_c"], *size, *c["kernel"], *(n for pair in geometry for n in pair), c["groups"]]
    names = {"forward": "lfwd_conv2d_scratch", "grad_input": "lfwd_conv2d_grad_input_scratch", "update": "lfwd_sgd_conv2d_scratch"}
    for kind, name in names.items():
        assert asked(csrc, name, shape) == conv2d_scratch(kind, shape)


def asked(csrc, name, shape):
    from ctypes import c_int32

    from kernel_calls import struct_of

    function = getattr(csrc, name)
    function.restype = c_int32
    return function(struct_of(shape))
