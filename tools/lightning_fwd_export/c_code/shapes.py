"""Shapes and strides of a call, collapsed to the few dimensions the kernels loop over."""

from __future__ import annotations

from ..pte import Tensor
from .kernels import Context


def collapse(sizes: list[int], *operands: list[int]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring dimensions (outermost first) that every operand walks as one; drop those of size 1."""
    out_sizes: list[int] = []
    out_strides: list[list[int]] = [[] for _ in operands]
    for size, *strides in zip(sizes, *operands, strict=True):
        if size == 1:
            continue
        if out_sizes and all(done[-1] == s * size for done, s in zip(out_strides, strides, strict=True)):
            out_sizes[-1] *= size
            for done, s in zip(out_strides, strides, strict=True):
                done[-1] = s
        else:
            out_sizes.append(size)
            for done, s in zip(out_strides, strides, strict=True):
                done.append(s)
    return out_sizes, out_strides


def pad(values: list[int], length: int, fill: int) -> list[int]:
    return [fill] * (length - len(values)) + values


def broadcast_strides(c: Context, t: Tensor, shape: tuple[int, ...]) -> list[int]:
    """The strides that read ``t`` as if it had ``shape``."""
    c.require(len(t.shape) <= len(shape), f"shape {t.shape} does not broadcast to {shape}")
    sizes, strides = pad(list(t.shape), len(shape), 1), pad(list(t.strides), len(shape), 0)
    c.require(all(n in (1, m) for n, m in zip(sizes, shape, strict=True)), f"shape {t.shape} does not broadcast to {shape}")
    return [0 if n == 1 else s for n, s in zip(sizes, strides, strict=True)]


def broadcast_table(c: Context, out: Tensor, *operands: Tensor | None) -> str:
    """``lfwd_broadcast`` over the output's memory order; None stands for a scalar."""
    strides = [broadcast_strides(c, t, out.shape) if t is not None else [0] * len(out.shape) for t in operands]
    sizes, collapsed = collapse([out.shape[d] for d in out.order], *([s[d] for d in out.order] for s in strides))
    c.require(len(sizes) <= 4, f"broadcasts over {len(sizes)} separate dimensions, at most 4")
    rows = [pad(s, 4, 0) for s in collapsed]
    return c.table("lfwd_broadcast", [pad(sizes, 4, 1), rows + [[0] * 4] * (3 - len(rows))])


def copy_table(c: Context, sizes: list[int], reads: list[int], writes: list[int]) -> str:
    """``lfwd_strides`` for a copy over at most four collapsed dimensions."""
    return c.table("lfwd_strides", [pad(sizes, 4, 1), pad(reads, 4, 0), pad(writes, 4, 0)])


def reduction_table(c: Context, t: Tensor, dims: list[int]) -> str:
    """``lfwd_reduction`` of the given dimensions; the output is contiguous over the others."""
    kept = [d for d in range(len(t.shape)) if d not in dims]
    keep, (keep_strides,) = collapse([t.shape[d] for d in kept], [t.strides[d] for d in kept])
    reduce, (reduce_strides,) = collapse([t.shape[d] for d in dims], [t.strides[d] for d in dims])
    c.require(max(len(keep), len(reduce)) <= 3, "reduces or keeps more than 3 separate dimensions")
    return c.table("lfwd_reduction", [pad(keep, 3, 1), pad(keep_strides, 3, 0), pad(reduce, 3, 1), pad(reduce_strides, 3, 0)])


def axis(t: Tensor, dim: int) -> tuple[int, int, int]:
    """Sizes (outer, dim, inner) around one dimension of a contiguous tensor."""
    outer = inner = 1
    for n in t.shape[:dim]:
        outer *= n
    for n in t.shape[dim + 1 :]:
        inner *= n
    return outer, (t.shape[dim] if t.shape else 1), inner
