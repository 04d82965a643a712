"""Reductions, softmax, and access by class index."""

from __future__ import annotations

from ..pte import Tensor
from .kernels import Context, kernel, number
from .layers import axis_of
from .shapes import reduction_table


def _dims(c: Context, k: int, t: Tensor) -> list[int]:
    value = c.arg(k)
    dims = [value] if isinstance(value, int) else value
    rank = max(len(t.shape), 1)
    if not dims:
        return list(range(len(t.shape)))
    c.require(all(type(d) is int and -rank <= d < rank for d in dims), f"dimensions {dims} of shape {t.shape}")
    return sorted({d % rank for d in dims}) if t.shape else []


def _reduce(c: Context, name: str, dims: list[int], extra: str = "", out: Tensor | None = None) -> str:
    x, out = c.tensor(0), out or c.out
    kept = 1
    for d, n in enumerate(x.shape):
        kept *= 1 if d in dims else n
    c.require(kept == out.count, f"reduces {x.shape} over {dims} to {out.shape}")
    c.contiguous(out)
    names = {("float", "float"): "f32", ("int64_t", "int64_t"): "i64", ("uint8_t", "int64_t"): "u8_i64", ("uint8_t", "uint8_t"): "u8"}
    function = f"lfwd_{name}_{names.get((x.ctype, out.ctype))}"
    c.require(function in REDUCTIONS, f"no {name} from {x.ctype} to {out.ctype}")
    return f"{function}({c.pointer(x)}, {reduction_table(c, x, dims)}{extra}, {c.pointer(out)})"


REDUCTIONS = {
    "lfwd_sum_f32",
    "lfwd_mean_f32",
    "lfwd_amax_f32",
    "lfwd_amin_f32",
    "lfwd_var_f32",
    "lfwd_sum_i64",
    "lfwd_sum_u8_i64",
    "lfwd_any_u8",
}


@kernel("aten::sum.IntList_out")
def _sum(c: Context) -> str:
    return _reduce(c, "sum", _dims(c, 1, c.tensor(0)))


@kernel("aten::mean.out")
def _mean(c: Context) -> str:
    return _reduce(c, "mean", _dims(c, 1, c.tensor(0)))


@kernel("aten::mean.dtype_out")
def _mean_all(c: Context) -> str:
    return _reduce(c, "mean", list(range(len(c.tensor(0).shape))))


@kernel("aten::amax.out")
def _amax(c: Context) -> str:
    return _reduce(c, "amax", _dims(c, 1, c.tensor(0)))


@kernel("aten::amin.out")
def _amin(c: Context) -> str:
    return _reduce(c, "amin", _dims(c, 1, c.tensor(0)))


@kernel("aten::any.out", "aten::any.dims_out")
def _any(c: Context) -> str:
    return _reduce(c, "any", _dims(c, 1, c.tensor(0)))


@kernel("aten::any.all_out")
def _any_all(c: Context) -> str:
    return _reduce(c, "any", list(range(len(c.tensor(0).shape))))


@kernel("aten::var.correction_out")
def _var(c: Context) -> str:
    correction = 1 if c.arg(2) is None else c.number(2)
    return _reduce(c, "var", _dims(c, 1, c.tensor(0)), f", {number(correction, 'float')}")


@kernel("aten::var_mean.correction_out")
def _var_mean(c: Context) -> str:
    dims, correction = _dims(c, 1, c.tensor(0)), 1 if c.arg(2) is None else c.number(2)
    c.before.append(_reduce(c, "var", dims, f", {number(correction, 'float')}", c.tensor(4)) + ";")
    return _reduce(c, "mean", dims, out=c.tensor(5))


@kernel("aten::argmax.out")
def _argmax(c: Context) -> str:
    x = c.tensor(0)
    c.contiguous(x, c.out)
    where = f"(lfwd_axis){{1, {x.count}, 1}}" if c.arg(1) is None else axis_of(x, c.dim(1, len(x.shape)))
    return f"lfwd_argmax_f32({c.p(0, 'float')}, {where}, {c.pointer(c.out, 'int64_t')})"


@kernel("aten::topk.values")
def _topk(c: Context) -> str:
    x, values, index = c.tensor(0), c.tensor(5), c.tensor(6)
    d = c.dim(2, len(x.shape))
    c.contiguous(x, values, index)
    c.require(bool(c.arg(3)), "only the largest")
    c.require(values.shape == index.shape and values.count * (x.shape[d] if x.shape else 1) == x.count * c.number(1), "shapes do not match")
    c.require(0 < c.number(1) <= (x.shape[d] if x.shape else 1), f"{c.number(1)} of {x.shape}")
    return f"lfwd_topk_f32({c.p(0, 'float')}, {axis_of(x, d)}, {c.number(1)}, {c.pointer(values, 'float')}, {c.pointer(index, 'int64_t')})"


def _softmax(c: Context, name: str) -> str:
    x = c.tensor(0)
    c.contiguous(x, c.out)
    where = axis_of(x, c.dim(1, len(x.shape)))
    return f"lfwd_{name}_f32({c.p(0, 'float')}, {where}, {c.pointer(c.out, 'float')})"


kernel("aten::_softmax.out")(lambda c: _softmax(c, "softmax"))
kernel("aten::_log_softmax.out")(lambda c: _softmax(c, "log_softmax"))


# ---- by index


def _indexed(c: Context) -> tuple[str, str, str]:
    """Element suffix, axis of the indexed tensor, and the index dimension's size."""
    x, index = c.tensor(0), c.tensor(2)
    d = c.dim(1, len(x.shape))
    c.contiguous(x, index, c.out)
    c.require(len(index.shape) == len(x.shape), "index and tensor differ in rank")
    same = index.shape[:d] + index.shape[d + 1 :] == x.shape[:d] + x.shape[d + 1 :]
    c.require(same, "the index covers only part of the other dimensions")
    suffix = {"float": "f32", "int64_t": "i64"}.get(x.ctype)
    c.require(suffix is not None, f"not for {x.ctype}")
    return suffix, axis_of(x, d), str(index.shape[d] if index.shape else 1)


@kernel("aten::gather.out")
def _gather(c: Context) -> str:
    suffix, where, size = _indexed(c)
    return f"lfwd_gather_{suffix}({c.p(0)}, {where}, {c.p(2, 'int64_t')}, {size}, {c.pointer(c.out)})"


@kernel("aten::scatter.value_out")
def _scatter_value(c: Context) -> str:
    suffix, where, size = _indexed(c)
    value = number(c.number(3), c.tensor(0).ctype)
    return f"lfwd_scatter_value_{suffix}({c.p(0)}, {where}, {c.p(2, 'int64_t')}, {size}, {value}, {c.pointer(c.out)})"


@kernel("aten::scatter.src_out", "aten::scatter_add.out")
def _scatter(c: Context) -> str:
    _, where, size = _indexed(c)
    name = "lfwd_scatter_add_f32" if "scatter_add" in c.call.operator else "lfwd_scatter_f32"
    c.contiguous(c.tensor(3))
    c.require(c.tensor(3).shape == c.tensor(2).shape, "source and index differ in shape")
    return f"{name}({c.p(0, 'float')}, {where}, {c.p(2, 'int64_t')}, {size}, {c.p(3, 'float')}, {c.pointer(c.out, 'float')})"


def _select(c: Context, x: Tensor, dim: int, index: Tensor) -> str:
    c.contiguous(x, index, c.out)
    suffix = {"float": "f32", "int64_t": "i64", "int8_t": "s8"}.get(x.ctype)
    c.require(suffix is not None and c.out.ctype == x.ctype, f"not for {x.ctype}")
    c.require(x.shape[dim] > 0 and c.out.count == x.count // x.shape[dim] * index.count, "shapes do not match")
    pointers = f"{c.pointer(index, 'int64_t')}, {index.count}, {c.pointer(c.out)}"
    return f"lfwd_index_select_{suffix}({c.pointer(x)}, {axis_of(x, dim)}, {pointers})"


@kernel("aten::index_select.out")
def _index_select(c: Context) -> str:
    return _select(c, c.tensor(0), c.dim(1, len(c.tensor(0).shape)), c.tensor(2))


@kernel("aten::embedding.out")
def _embedding(c: Context) -> str:
    return _select(c, c.tensor(0), 0, c.tensor(1))


@kernel("aten::index.Tensor_out")
def _index(c: Context) -> str:
    given = [(d, t) for d, t in enumerate(c.arg(1)) if t is not None]
    c.require(len(given) == 1, "indexes more than one dimension at once")
    return _select(c, c.tensor(0), *given[0])
