"""Operators of a step in integers (``lightning_fwd/integer``): every one is a kernel of ``csrc/integer_*.c``."""

from __future__ import annotations

import math

from ..pte import Tensor
from .kernels import Context, kernel


def _update(c: Context, first: int) -> str:
    """``lfwd_int_update`` from exponents, c, c_exponent, x, x_exponent, counter, stream, which stand from position ``first`` on."""
    exponents, cs, c_exponent, x, x_exponent, counter = (c.tensor(first + k) for k in range(6))
    c.contiguous(cs, x)
    pointers = [
        c.pointer(cs, "int16_t"),
        *(c.pointer(t, "int8_t") for t in (c_exponent, x, x_exponent, exponents)),
        c.pointer(counter, "int64_t"),
    ]
    return "&(lfwd_int_update){" + ", ".join(pointers) + f", {c.number(first + 6)}u}}"


def _weight(c: Context, weight: int, exponents: int) -> str:
    w = c.tensor(weight)
    c.contiguous(w)
    c.require(c.tensor(exponents).count == w.shape[0], "a weight needs an exponent per row")
    kinds = {"int16_t": f"{c.pointer(w)}, 0", "int8_t": f"0, {c.pointer(w)}"}
    c.require(w.ctype in kinds, f"a weight is {w.ctype}")
    return f"&(lfwd_int_weight){{{kinds[w.ctype]}, {c.p(exponents, 'int8_t')}}}"


def _shape(c: Context, x: Tensor, weight: Tensor, out: Tensor, at: int) -> str:
    """``lfwd_int_conv_shape``: sizes from the tensors, stride, padding, dilation and groups from position ``at`` on."""
    c.contiguous(x, weight, out)
    flat = 4 - len(x.shape)
    c.require(flat in (0, 1) and len(weight.shape) == len(out.shape) == len(x.shape), "not a 1-d or 2-d convolution")
    stride, padding, dilation = ([lead] * flat + c.ints(at + k, 2 - flat) for k, lead in enumerate((1, 0, 1)))
    sizes = [[1] * flat + list(t.shape[2:]) for t in (x, out, weight)]
    groups, channels = c.number(at + 3), (x.shape[1], out.shape[1])
    c.require(min(*stride, *dilation, groups) >= 1 and min(padding) >= 0, "bad stride, padding, dilation or groups")
    c.require(not channels[0] % groups and not channels[1] % groups, "groups do not divide the channels")
    for n, m, k, s, p, d in zip(*sizes, stride, padding, dilation, strict=True):
        c.require(m == (n + 2 * p - d * (k - 1) - 1) // s + 1, f"output {out.shape} does not follow from the input")
    c.require(x.shape[0] == out.shape[0] and weight.shape[0] == channels[1], "batch or channels differ")
    fields = [x.shape[0], channels[0], *sizes[0], channels[1], *sizes[1], *sizes[2], *stride, *padding, *dilation, groups]
    return c.table("lfwd_int_conv_shape", fields)


# ---- scales


@kernel("lfwd::int_exponent.out")
def _exponent(c: Context) -> str:
    second = f"{c.p(1, 'int8_t')}, {c.tensor(1).count}" if c.arg(1) else "0, 0"
    return f"lfwd_int_exponent({c.p(0, 'int8_t')}, {c.tensor(0).count}, {second}, {c.number(2)}, {c.number(3)}, {c.pointer(c.out)})"


@kernel("lfwd::int_larger.out")
def _larger(c: Context) -> str:
    return f"lfwd_int_larger({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {c.pointer(c.out)})"


@kernel("lfwd::int_smaller.out")
def _smaller(c: Context) -> str:
    return f"lfwd_int_smaller({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {c.pointer(c.out)})"


@kernel("lfwd::int_requantise.out")
def _requantise(c: Context) -> str:
    acc = c.tensor(0)
    c.contiguous(acc, c.out)
    scales = f"{c.p(1, 'int8_t')}, {c.p(2, 'int8_t')}, {c.number(3)}, {int(c.number(4))}"
    return f"lfwd_int_requantise({c.p(0, 'int32_t')}, {acc.count}, {scales}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_needed_exponent.out")
def _needed(c: Context) -> str:
    scales = f"{c.p(1, 'int8_t')}, {c.number(2)}, {int(c.number(3))}"
    return f"lfwd_int_needed_exponent({c.p(0, 'int32_t')}, {c.tensor(0).count}, {scales}, {c.pointer(c.out)})"


@kernel("lfwd::int_coarsen_.")
def _coarsen(c: Context) -> str:
    return f"lfwd_int_coarsen({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')})"


@kernel("lfwd::int_narrow_shift.out")
def _narrow_shift(c: Context) -> str:
    c.contiguous(c.tensor(0), c.arg(1))
    return f"lfwd_int_narrow_shift({c.p(0, 'int32_t')}, {c.p(1, 'int8_t')}, {c.tensor(0).count}, {c.number(2)}, {c.pointer(c.out)})"


@kernel("lfwd::int_narrow.out")
def _narrow(c: Context) -> str:
    c.contiguous(c.tensor(0), c.arg(1), c.out)
    operands = f"{c.p(0, 'int32_t')}, {c.p(1, 'int8_t')}, {c.tensor(0).count}, {c.p(2, 'int8_t')}, {c.number(3)}"
    return f"lfwd_int_narrow({operands}, {c.pointer(c.out, 'int16_t')})"


@kernel("lfwd::int_mask.out")
def _mask(c: Context) -> str:
    c.contiguous(c.tensor(0), c.tensor(1), c.out)
    return f"lfwd_int_mask({c.p(0, 'int16_t')}, {c.p(1, 'int8_t')}, {c.tensor(0).count}, {c.pointer(c.out, 'int16_t')})"


@kernel("lfwd::int_error_sum.out")
def _error_sum(c: Context) -> str:
    c.contiguous(c.tensor(0), c.out)
    return f"lfwd_int_error_sum({c.p(0, 'int16_t')}, {c.tensor(0).count}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_pool_sum.out")
def _pool_sum(c: Context) -> str:
    x, out = c.tensor(0), c.out
    c.contiguous(x, out)
    windows = [c.ints(k, 2) for k in (1, 2, 3)]
    c.require(len(x.shape) == 4 and min(*windows[0], *windows[1]) >= 1 and min(windows[2]) >= 0, "bad window")
    fields = [x.shape[0] * x.shape[1], *x.shape[2:], *out.shape[2:], *windows[0], *windows[1], *windows[2]]
    return f"lfwd_int_pool_sum({c.p(0, 'int8_t')}, {c.table('lfwd_int_pool_shape', fields)}, {c.pointer(out, 'int32_t')})"


@kernel("lfwd::int_add.out")
def _add(c: Context) -> str:
    c.contiguous(c.tensor(0), c.tensor(2), c.out)
    c.require(c.tensor(0).shape == c.tensor(2).shape, "operands differ in shape")
    operands = ", ".join(c.p(k, "int8_t") for k in range(4))
    return f"lfwd_int_add({operands}, {c.tensor(0).count}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_softmax_error.out")
def _softmax_error(c: Context) -> str:
    batch, classes = c.tensor(0).shape
    operands = f"{c.p(0, 'int32_t')}, {c.p(1, 'int8_t')}, {c.p(2, 'int64_t')}, {batch}, {classes}"
    return f"lfwd_int_softmax_error({operands}, {c.pointer(c.out, 'int16_t')})"


# ---- layers


@kernel("lfwd::int_linear.out")
def _linear(c: Context) -> str:
    x, w = c.tensor(0), c.tensor(1)
    c.contiguous(x, c.out)
    c.require(c.arg(3) is None or c.tensor(3).count == w.shape[0], "bias does not match")
    operands = f"{c.p(0, 'int8_t')}, {_weight(c, 1, 2)}, {c.p(3, 'int32_t')}, {c.p(4, 'int8_t')}"
    return f"lfwd_int_linear({operands}, {x.shape[0]}, {w.shape[0]}, {w.shape[1]}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_linear_back.out")
def _linear_back(c: Context) -> str:
    e, w = c.tensor(0), c.tensor(1)
    c.contiguous(e, c.out)
    sizes = f"{e.shape[0]}, {w.shape[0]}, {w.shape[1]}"
    return f"lfwd_int_linear_back({c.p(0, 'int16_t')}, {_weight(c, 1, 2)}, {sizes}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_linear_error.out")
def _linear_error(c: Context) -> str:
    e, w = c.tensor(0), c.tensor(1)
    c.contiguous(e, c.out)
    sizes = f"{e.shape[0]}, {w.shape[0]}, {w.shape[1]}"
    return f"lfwd_int_linear_error({c.p(0, 'int16_t')}, {_weight(c, 1, 2)}, {sizes}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_conv.out")
def _conv(c: Context) -> str:
    shape = _shape(c, c.tensor(0), c.tensor(1), c.out, 5)
    operands = f"{c.p(0, 'int8_t')}, {_weight(c, 1, 2)}, {c.p(3, 'int32_t')}, {c.p(4, 'int8_t')}"
    scratch = c.scratch(6 * math.prod(c.tensor(1).shape[1:]) + 16)
    return f"lfwd_int_conv({operands}, {shape}, {scratch}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_conv_onto.out")
def _conv_onto(c: Context) -> str:
    c.contiguous(c.tensor(4))
    c.require(c.tensor(4).shape == c.out.shape, "sums of two shapes")
    shape, scratch = _shape(c, c.tensor(0), c.tensor(1), c.out, 6), c.scratch(6 * math.prod(c.tensor(1).shape[1:]) + 16)
    given = f"{c.p(0, 'int8_t')}, {_weight(c, 1, 2)}, {c.p(3, 'int8_t')}, {shape}, {scratch}"
    return f"lfwd_int_conv_onto({given}, {c.p(4, 'int32_t')}, {c.p(5, 'int8_t')}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_conv_error.out")
def _conv_error(c: Context) -> str:
    shape = _shape(c, c.tensor(0), c.tensor(1), c.out, 3)
    return f"lfwd_int_conv_error({c.p(0, 'int16_t')}, {_weight(c, 1, 2)}, {shape}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_conv_back.out")
def _conv_back(c: Context) -> str:
    shape = _shape(c, c.out, c.tensor(1), c.tensor(0), 4)
    outputs, taps = c.tensor(1).shape[0] // c.number(7), math.prod(c.tensor(1).shape[2:])
    scratch = c.scratch(8 * outputs * (taps + 1) + 16)
    return f"lfwd_int_conv_back({c.p(0, 'int16_t')}, {_weight(c, 1, 2)}, {shape}, {scratch}, {c.pointer(c.out, 'int32_t')})"


# ---- updates in place


@kernel("lfwd::int_apply_rate.out")
def _apply_rate(c: Context) -> str:
    c.contiguous(c.tensor(0), c.out)
    operands = f"{c.p(0, 'int16_t')}, {c.tensor(0).count}, {c.p(1, 'int32_t')}, {c.number(2)}, {c.number(3)}"
    return f"lfwd_int_apply_rate({operands}, {c.pointer(c.out, 'int16_t')})"


@kernel("lfwd::int_rate_exponent.out")
def _rate_exponent(c: Context) -> str:
    exponent = f"{c.p(1, 'int8_t')}, {c.tensor(1).count}" if c.arg(1) else "0, 0"
    return f"lfwd_int_rate_exponent({c.p(0, 'int32_t')}, {exponent}, {c.number(2)}, {c.pointer(c.out)})"


def _part(c: Context, k: int) -> str:
    return f"{c.p(k, 'int64_t')}, {c.tensor(0).shape[1]}"


def _scratch(c: Context, lines: int, width: int, outputs: int) -> str:
    """``LFWD_INT_UPDATE_SCRATCH``."""
    return f"(uint16_t *)(void *){c.scratch(2 * ((lines * width + 1) // 2 * 2) + 1536 + 48 * (outputs + 1) + 32)}"


@kernel("lfwd::int_outer_update_.")
def _outer_update(c: Context) -> str:
    (batch, out), width = c.tensor(2).shape, c.tensor(4).shape[1]
    sizes = f"{batch}, {out}, {width}, {_part(c, 8)}, {_scratch(c, 1, width, out)}"
    return f"lfwd_int_outer_update({c.p(0, 'int16_t')}, {_update(c, 1)}, {sizes})"


@kernel("lfwd::int_outer_velocity_.")
def _outer_velocity(c: Context) -> str:
    (batch, out), width = c.tensor(2).shape, c.tensor(4).shape[1]
    sizes = f"{c.p(8, 'int32_t')}, {batch}, {out}, {width}, {_scratch(c, 2, width, out)}"
    return f"lfwd_int_outer_velocity({c.p(0, 'int16_t')}, {_update(c, 1)}, {sizes})"


@kernel("lfwd::int_conv_update_.")
def _conv_update(c: Context) -> str:
    state, x = c.tensor(0), c.tensor(4)
    learning = Tensor(
        -1, (state.shape[0], x.shape[1] // c.number(12), *state.shape[2:]), tuple(range(len(state.shape))), "", 2, "", None, 0, None
    )
    shape, scratch = _shape(c, x, learning, c.tensor(2), 9), _scratch(c, 1, math.prod(learning.shape[1:]), state.shape[0])
    return f"lfwd_int_conv_update({c.p(0, 'int16_t')}, {_update(c, 1)}, {shape}, {_part(c, 8)}, {scratch})"


@kernel("lfwd::int_conv_velocity_.")
def _conv_velocity(c: Context) -> str:
    state = c.tensor(0)
    shape, scratch = _shape(c, c.tensor(4), state, c.tensor(2), 9), _scratch(c, 2, math.prod(state.shape[1:]), state.shape[0])
    return f"lfwd_int_conv_velocity({c.p(0, 'int16_t')}, {_update(c, 1)}, {c.p(8, 'int32_t')}, {shape}, {scratch})"


@kernel("lfwd::int_apply_velocity_.")
def _apply_velocity(c: Context) -> str:
    state, velocity = c.tensor(0), c.tensor(1)
    draws = f"{c.p(2, 'int64_t')}, {c.number(3)}u"
    if state.ctype == "int32_t":
        return f"lfwd_int_apply_bias_velocity({c.p(0)}, {c.p(1, 'int32_t')}, {draws}, {state.count})"
    width, taps = velocity.shape[1], math.prod(velocity.shape[2:])
    scratch = c.scratch(2 * width * taps)
    sizes = f"{state.shape[0]}, {width}, {taps}, {_part(c, 4)}, (uint16_t *)(void *){scratch}"
    return f"lfwd_int_apply_velocity({c.p(0, 'int16_t')}, {c.p(1, 'int16_t')}, {draws}, {sizes})"


def _bias(c: Context, name: str, rate: str) -> str:
    e = c.tensor(1)
    sizes = f"{e.shape[0]}, {e.shape[1]}, {math.prod(e.shape[2:])}"
    draws = f"{c.p(3, 'int64_t')}, {c.number(4)}u"
    return f"{name}({c.p(0, 'int32_t')}, {c.p(1, 'int16_t')}, {c.p(2, 'int8_t')}, {draws}, {rate}{sizes})"


@kernel("lfwd::int_bias_update_.")
def _bias_update(c: Context) -> str:
    return _bias(c, "lfwd_int_bias_update", "")


@kernel("lfwd::int_bias_velocity_.")
def _bias_velocity(c: Context) -> str:
    return _bias(c, "lfwd_int_bias_velocity", f"{c.p(5, 'int32_t')}, ")


@kernel("lfwd::int_saturated.out")
def _saturated(c: Context) -> str:
    w = c.tensor(0)
    sizes = f"{w.shape[0]}, {w.count // w.shape[0]}"
    return f"lfwd_int_saturated({c.p(0, 'int16_t')}, {sizes}, {c.p(1, 'int64_t')}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_ratchet_.")
def _ratchet(c: Context) -> str:
    w = c.tensor(0)
    return f"lfwd_int_ratchet({c.p(0, 'int16_t')}, {c.p(1, 'int8_t')}, {w.shape[0]}, {w.count // w.shape[0]}, {c.number(2)})"


@kernel("lfwd::int_ratchet_exponents_.")
def _ratchet_exponents(c: Context) -> str:
    return f"lfwd_int_ratchet_exponents({c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {c.tensor(0).count})"


@kernel("lfwd::int_next_.")
def _next(c: Context) -> str:
    return f"lfwd_int_next({c.p(0, 'int64_t')})"
