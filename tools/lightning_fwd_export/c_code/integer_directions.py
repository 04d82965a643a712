"""Operators of zeroth order in integers: kernels of ``csrc/integer_directions.c``."""

from __future__ import annotations

from .kernels import Context, kernel


def _direction(c: Context, at: int) -> str:
    """``lfwd_int_direction`` from counter, times, plus, wanted, which stand from position ``at`` on."""
    return f"&(lfwd_int_direction){{{c.p(at, 'int64_t')}, {c.number(at + 1)}u, {c.number(at + 2)}u, {c.number(at + 3)}}}"


def _matrix(c: Context) -> str:
    """Rows and columns of the masters that come first, with an exponent for each row."""
    w = c.tensor(0)
    c.contiguous(w)
    c.require(c.tensor(1).count == w.shape[0], "a weight needs an exponent per row")
    return f"{w.shape[0]}, {w.count // w.shape[0]}"


@kernel("lfwd::int_moved.out")
def _moved(c: Context) -> str:
    sizes = _matrix(c)
    c.contiguous(c.out)
    return f"lfwd_int_moved({c.p(0, 'int16_t')}, {c.p(1, 'int8_t')}, {_direction(c, 2)}, {sizes}, {c.pointer(c.out, 'int8_t')})"


def _beside(c: Context) -> str:
    """Exponents of the weight beside a bias, and how many."""
    return f"{c.p(1, 'int8_t')}, {c.tensor(1).count}" if c.arg(1) else "0, 0"


@kernel("lfwd::int_moved_bias.out")
def _moved_bias(c: Context) -> str:
    return f"lfwd_int_moved_bias({c.p(0, 'int32_t')}, {_beside(c)}, {_direction(c, 2)}, {c.tensor(0).count}, {c.pointer(c.out, 'int32_t')})"


def _logits(c: Context) -> str:
    c.contiguous(*(c.tensor(k) for k in range(3)))
    c.require(c.tensor(0).shape == c.tensor(1).shape == c.tensor(2).shape, "errors and logits differ in shape")
    return f"{c.p(0, 'int16_t')}, {c.p(1, 'int32_t')}, {c.p(2, 'int32_t')}, {c.tensor(0).count}"


@kernel("lfwd::int_slope_shift.out")
def _slope_shift(c: Context) -> str:
    return f"lfwd_int_slope_shift({_logits(c)}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_slope.out")
def _slope(c: Context) -> str:
    return f"lfwd_int_slope({_logits(c)}, {c.p(3, 'int8_t')}, {c.pointer(c.out, 'int16_t')})"


@kernel("lfwd::int_direction_update_.")
def _direction_update(c: Context) -> str:
    w, sizes = c.tensor(0), _matrix(c)
    scratch = f"(uint16_t *)(void *){c.scratch(2 * (w.count // w.shape[0]) + 2)}"
    given = f"{c.p(0, 'int16_t')}, {c.p(1, 'int8_t')}, {c.p(2, 'int16_t')}, {c.p(3, 'int8_t')}, {c.number(4)}u"
    return f"lfwd_int_direction_update({given}, {_direction(c, 5)}, {sizes}, {scratch})"


@kernel("lfwd::int_direction_bias_update_.")
def _direction_bias_update(c: Context) -> str:
    given = f"{c.p(0, 'int32_t')}, {_beside(c)}, {c.p(2, 'int16_t')}, {c.p(3, 'int8_t')}, {c.number(4)}u"
    return f"lfwd_int_direction_bias_update({given}, {_direction(c, 5)}, {c.tensor(0).count})"
