"""Operators that only move, fill or convert: permutations, slices, concatenation, padding, copies."""

from __future__ import annotations

from ..pte import Tensor
from .kernels import CASTS, Context, kernel, number
from .shapes import broadcast_strides, collapse, copy_table


def _copy(c: Context, source: Tensor, reads: list[int], out: Tensor, offset: int = 0, sizes=None, writes=None, skip=0) -> str:
    """``out[i . writes + skip] = source[i . reads + offset]`` over ``sizes``; contiguous runs become one memcpy."""
    c.require(source.ctype == out.ctype, f"moves {source.ctype} into {out.ctype}")
    sizes, writes = list(out.shape if sizes is None else sizes), list(out.strides if writes is None else writes)
    order = [d for d in out.order if d < len(sizes)] if len(sizes) == len(out.shape) else range(len(sizes))
    table_args = [[v[d] for d in order] for v in (sizes, reads, writes)]
    source_at = _shifted(c.pointer(source), offset)
    out_at = _shifted(c.pointer(out), skip)
    count = 1
    for n in sizes:
        count *= n
    if _one_run(*table_args):
        return f"memcpy({out_at}, {source_at}, {count * out.itemsize})"
    sizes, (reads, writes) = collapse(*table_args)
    loops = ""
    for k, (n, r, w) in enumerate(list(zip(sizes, reads, writes, strict=True))[:-4]):  # the kernel walks four dimensions
        loops += f"for (int32_t i{k} = 0; i{k} < {n}; i{k}++) "
        source_at, out_at = f"{source_at} + i{k} * {r}", f"{out_at} + i{k} * {w}"
    return f"{loops}lfwd_copy_strided({source_at}, {copy_table(c, sizes[-4:], reads[-4:], writes[-4:])}, {out.itemsize}, {out_at})"


def _one_run(sizes: list[int], reads: list[int], writes: list[int]) -> bool:
    step = 1
    for n, r, w in reversed(list(zip(sizes, reads, writes, strict=True))):
        if n != 1 and (r != step or w != step):
            return False
        step *= n
    return True


def _shifted(pointer: str, offset: int) -> str:
    return f"{pointer} + {offset}" if offset else pointer


@kernel("aten::permute_copy.out", "cortex_m::transpose.out")
def _permute(c: Context) -> str:
    dims = [d % max(len(c.tensor(0).shape), 1) for d in c.ints(1)]
    return _permuted(c, dims)


@kernel("aten::transpose_copy.int_out")
def _transpose(c: Context) -> str:
    dims = list(range(len(c.tensor(0).shape)))
    a, b = c.dim(1, len(dims)), c.dim(2, len(dims))
    dims[a], dims[b] = dims[b], dims[a]
    return _permuted(c, dims)


@kernel("aten::t_copy.out")
def _t(c: Context) -> str:
    return _permuted(c, list(reversed(range(len(c.tensor(0).shape)))))


def _permuted(c: Context, dims: list[int]) -> str:
    source = c.tensor(0)
    c.require(sorted(dims) == list(range(len(source.shape))), f"permutation {dims} of shape {source.shape}")
    c.require(tuple(source.shape[d] for d in dims) == c.out.shape, "shapes do not match the permutation")
    return _copy(c, source, [source.strides[d] for d in dims], c.out)


@kernel("aten::expand_copy.out", "aten::copy_.", "aten::copy.out")
def _expand(c: Context) -> str:
    source = c.tensor(0) if c.call.operator == "aten::expand_copy.out" else c.tensor(1)
    return _copy(c, source, broadcast_strides(c, source, c.out.shape), c.out)


@kernel("aten::repeat.out")
def _repeat(c: Context) -> str:
    source, repeats = c.tensor(0), c.ints(1)
    padded = [1] * (len(repeats) - len(source.shape)) + list(source.shape)
    strides = [0] * (len(repeats) - len(source.shape)) + list(source.strides)
    c.require(tuple(n * r for n, r in zip(padded, repeats, strict=True)) == c.out.shape, "shapes do not match")
    sizes, reads, writes = [], [], []
    for n, r, s, w in zip(padded, repeats, strides, c.out.strides, strict=True):
        sizes += [r, n]
        reads += [0, s]
        writes += [w * n, w]
    return _copy(c, source, reads, c.out, sizes=sizes, writes=writes)


@kernel(
    "aten::view_copy.out",
    "aten::clone.out",
    "aten::unsqueeze_copy.out",
    "aten::squeeze_copy.dim_out",
    "aten::squeeze_copy.dims_out",
    "aten::alias_copy.out",
    "aten::detach_copy.out",
    "aten::lift_fresh_copy.out",
    "aten::_to_copy.out",
    "dim_order_ops::_to_dim_order_copy.out",
    "dim_order_ops::_clone_dim_order.out",
)
def _same_elements(c: Context) -> str:
    source, out = c.tensor(0), c.out
    c.require(source.count == out.count, f"{source.shape} and {out.shape} differ in size")
    if source.shape == out.shape:
        if source.ctype == out.ctype:
            return _copy(c, source, list(source.strides), out)
        c.require(source.strides == out.strides, "changes element type and layout at once")
    else:
        c.contiguous(source, out)
    if source.ctype == out.ctype:
        return f"memcpy({c.pointer(out)}, {c.pointer(source)}, {out.nbytes})"
    names = {"float": "f32", "int64_t": "i64", "uint8_t": "u8", "int32_t": "i32", "int8_t": "s8"}
    cast = f"lfwd_cast_{names.get(source.ctype)}_{names.get(out.ctype)}"
    c.require(cast in CASTS, f"no conversion from {source.ctype} to {out.ctype}")
    return f"{cast}({c.pointer(source)}, {out.count}, {c.pointer(out)})"


@kernel("aten::slice_copy.Tensor_out")
def _slice(c: Context) -> str:
    source, out = c.tensor(0), c.out
    d = c.dim(1, len(source.shape))
    size, step = source.shape[d], c.number(4)
    start = min(max((c.arg(2) or 0) + (size if (c.arg(2) or 0) < 0 else 0), 0), size)
    c.require(step >= 1, "step must be positive")
    _check_reads(c, source, d, start, step, out)
    strides = [s * (step if i == d else 1) for i, s in enumerate(source.strides)]
    return _copy(c, source, strides, out, offset=start * source.strides[d])


def _check_reads(c: Context, source: Tensor, d: int, start: int, step: int, out: Tensor) -> None:
    fits = len(out.shape) == len(source.shape) and all(
        m == n if i != d else m == 0 or start + (m - 1) * step < n for i, (n, m) in enumerate(zip(source.shape, out.shape, strict=True))
    )
    c.require(fits, f"reads {out.shape} from {source.shape} at {start} in dimension {d}")


@kernel("aten::select_copy.int_out")
def _select(c: Context) -> str:
    source, out = c.tensor(0), c.out
    d = c.dim(1, len(source.shape))
    index = c.number(2) + (source.shape[d] if c.number(2) < 0 else 0)
    rest = source.shape[:d] + source.shape[d + 1 :]
    c.require(0 <= index < source.shape[d] and out.shape == rest, f"selects {index} of {source.shape} in dimension {d}")
    return _copy(c, source, [s for i, s in enumerate(source.strides) if i != d], out, offset=index * source.strides[d])


@kernel("aten::slice_scatter.out")
def _slice_scatter(c: Context) -> str:
    base, part, out = c.tensor(0), c.tensor(1), c.out
    d = c.dim(2, len(out.shape))
    size, step = out.shape[d], c.number(5)
    start = min(max((c.arg(3) or 0) + (size if (c.arg(3) or 0) < 0 else 0), 0), size)
    c.require(base.shape == out.shape and step >= 1, "shapes differ or step is not positive")
    _check_reads(c, out, d, start, step, part)
    if c.pointer(base) != c.pointer(out):
        c.before.append(_copy(c, base, list(base.strides), out) + ";")
    writes = [s * (step if i == d else 1) for i, s in enumerate(out.strides)]
    return _copy(c, part, list(part.strides), out, sizes=part.shape, writes=writes, skip=start * out.strides[d])


@kernel("aten::cat.out")
def _cat(c: Context) -> str | None:
    parts, out = c.arg(0), c.out
    c.require(isinstance(parts, list), "argument 0 is no tensor list")
    d, at, lines = c.dim(1, len(out.shape)), 0, []
    for part in parts:
        if part.count == 0:
            continue
        c.require(part.shape[:d] + part.shape[d + 1 :] == out.shape[:d] + out.shape[d + 1 :], "shapes differ")
        c.require(at + part.shape[d] <= out.shape[d], "parts exceed the output")
        lines.append(_copy(c, part, list(part.strides), out, sizes=part.shape, skip=at * out.strides[d]))
        at += part.shape[d]
    c.require(at == out.shape[d], "parts do not fill the output")
    c.before += [line + ";" for line in lines[:-1]]
    return lines[-1] if lines else None


@kernel("aten::split_with_sizes_copy.out")
def _split(c: Context) -> str | None:
    source, sizes, outs = c.tensor(0), c.ints(1), c.arg(-1)
    d, at, lines = c.dim(2, len(source.shape)), 0, []
    for size, out in zip(sizes, outs, strict=True):
        _check_reads(c, source, d, at, 1, out)
        lines.append(_copy(c, source, list(source.strides), out, offset=at * source.strides[d]))
        at += size
    c.before += [line + ";" for line in lines[:-1]]
    return lines[-1] if lines else None


@kernel("aten::constant_pad_nd.out")
def _constant_pad(c: Context) -> str:
    source, amounts, out = c.tensor(0), c.ints(1), c.out
    before = [0] * len(out.shape)
    for i in range(len(amounts) // 2):
        before[-1 - i] = amounts[2 * i]
    c.require(min(amounts) >= 0, "negative padding")
    c.require(all(b + n <= m for b, n, m in zip(before, source.shape, out.shape, strict=True)), "padding does not fit")
    c.before.append(_filled(c, out, c.number(2)) + ";")
    skip = sum(b * s for b, s in zip(before, out.strides, strict=True))
    return _copy(c, source, list(source.strides), out, sizes=source.shape, skip=skip)


def _filled(c: Context, out: Tensor, value: float | int) -> str:
    suffix = {"float": "f32", "int64_t": "i64"}.get(out.ctype)
    if out.ctype == "uint8_t" or value == 0:
        return f"memset({c.pointer(out)}, {int(bool(value))}, {out.nbytes})"
    c.require(suffix is not None, f"cannot fill {out.ctype}")
    return f"lfwd_fill_{suffix}({number(value, out.ctype)}, {out.count}, {c.pointer(out)})"


@kernel("aten::full.out", "aten::full_like.out", "aten::fill.Scalar_out")
def _full(c: Context) -> str:
    return _filled(c, c.out, c.number(1))


@kernel("aten::zeros.out")
def _zeros(c: Context) -> str:
    return _filled(c, c.out, 0)


@kernel("aten::ones.out")
def _ones(c: Context) -> str:
    return _filled(c, c.out, 1)


@kernel("aten::scalar_tensor.out")
def _scalar_tensor(c: Context) -> str:
    return _filled(c, c.out, c.number(0))


@kernel("aten::arange.start_out", "aten::arange.out")
def _arange(c: Context) -> str:
    start, step = (c.number(0), c.number(2)) if c.call.operator.endswith("start_out") else (0, 1)
    ctype = c.out.ctype
    if ctype == "uint8_t":  # classes, of which there are few: a constant is shorter than code
        values = [int(start + step * i) for i in range(c.out.count)]
        c.require(all(0 <= v < 256 for v in values), "beyond 8 bits")
        return f"memcpy({c.pointer(c.out)}, {c.unit.constant(ctype, values)}, {len(values)})"
    c.require(ctype in ("float", "int64_t"), f"not for {ctype}")
    suffix = "f32" if ctype == "float" else "i64"
    return f"lfwd_arange_{suffix}({number(start, ctype)}, {number(step, ctype)}, {c.out.count}, {c.pointer(c.out)})"


@kernel("dim_order_ops::_empty_dim_order.out", "aten::empty.out")
def _empty(c: Context) -> None:
    return None
