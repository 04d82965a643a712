"""Operators of Forward-Forward in integers: kernels of ``csrc/integer_goodness.c``."""

from __future__ import annotations

from .kernels import Context, kernel


def _samples(c: Context, k: int) -> tuple[int, int]:
    """Samples, and values of each."""
    t = c.tensor(k)
    c.contiguous(t, c.out)
    return t.shape[0], t.count // max(1, t.shape[0])


@kernel("lfwd::int_contrast_error.out")
def _contrast_error(c: Context) -> str:
    batch, values = _samples(c, 0)
    c.require(batch % 2 == 0, "positive and negative samples differ in number")
    settings = c.table("lfwd_int_contrast", [int(c.number(k)) for k in range(2, 7)])
    operands = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {settings}, {batch // 2}, {values}"
    return f"lfwd_int_contrast_error({operands}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_sample_norm.out")
def _sample_norm(c: Context) -> str:
    batch, values = _samples(c, 0)
    return f"lfwd_int_sample_norm({c.p(0, 'int8_t')}, {batch}, {values}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_wrong_labels.out")
def _wrong_labels(c: Context) -> str:
    c.require(c.number(4) >= 2, "there is no other label")
    numbers = f"{c.number(2)}u, {c.number(3)}u, {c.tensor(0).count}, {c.number(4)}"
    return f"lfwd_int_wrong_labels({c.p(0, 'int64_t')}, {c.p(1, 'int64_t')}, {numbers}, {c.pointer(c.out, 'int64_t')})"


@kernel("lfwd::int_label_overlay.out")
def _label_overlay(c: Context) -> str:
    (batch, values), classes = _samples(c, 0), c.number(3)
    c.require(classes <= values and c.out.shape[0] % batch == 0, "more classes than values, or labels do not fit the samples")
    sizes = f"{batch}, {c.out.shape[0] // batch}, {values}, {classes}, {c.number(4)}, {c.number(5)}"
    operands = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {c.p(2, 'int64_t')}, {sizes}"
    return f"lfwd_int_label_overlay({operands}, {c.pointer(c.out, 'int8_t')})"


@kernel("lfwd::int_label_rows.out")
def _label_rows(c: Context) -> str:
    (classes, values), rows = _samples(c, 0), c.out.shape[0]
    operands = f"{c.p(0, 'int8_t')}, {c.p(1, 'int8_t')}, {c.p(2, 'int64_t')}, {rows}, {classes}, {values}"
    return f"lfwd_int_label_rows({operands}, {c.pointer(c.out, 'int32_t')})"


@kernel("lfwd::int_add_sums.out")
def _add_sums(c: Context) -> str:
    c.contiguous(c.tensor(0), c.tensor(2), c.out)
    c.require(c.tensor(0).shape == c.tensor(2).shape, "operands differ in shape")
    operands = f"{c.p(0, 'int32_t')}, {c.p(1, 'int8_t')}, {c.p(2, 'int32_t')}, {c.p(3, 'int8_t')}"
    return f"lfwd_int_add_sums({operands}, {c.tensor(0).count}, {c.pointer(c.out, 'int32_t')})"
