"""The table operator -> C call, and what an emitter sees of the call it translates."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from ..errors import NoKernel
from ..pte import Call, Tensor

Emitter = Callable[["Context"], str | None]
KERNELS: dict[str, Emitter] = {}


def kernel(*operators: str) -> Callable[[Emitter], Emitter]:
    """Register an emitter: it returns the C call (no semicolon), or None where nothing runs."""

    def register(emit: Emitter) -> Emitter:
        KERNELS.update(dict.fromkeys(operators, emit))
        return emit

    return register


_OTHERS = (
    "put another layer in its place: linear, 1-d and 2-d convolution (padded with zeros), pooling, batch, layer and group norm and most "
    "elementwise operations have one"
)
_ADVICE = {  # by what a user wrote when this operator is met
    "convolution": "transposed ones have a kernel without a bias only (bias=False), 3-d ones none",
    "adaptive_max_pool2d": "write x.amax((2, 3)) for one position, or a max pooling of that window",
    "index": "upsampling and padding that mirrors or repeats (padding_mode, F.pad) end here; pad with zeros",
}


def no_kernel(call: Call, why: str) -> NoKernel:
    """The error for a call that cannot be translated."""
    where = f"{call.layer or 'an unnamed module'}{f' ({call.phase})' if call.phase else ''}"
    return NoKernel(
        f"operator {call.operator} in or behind {where} has no C kernel",
        why,
        _ADVICE.get(call.operator.partition("::")[2].partition(".")[0], _OTHERS),
        call.layer,
    )


class Context:
    """One call being translated.

    Attributes:
        call: the operator call.
        unit: collects constants, tables and scratch of the C unit (see :class:`.unit.Unit`).
        position: of the call in its method.
    """

    def __init__(self, call: Call, unit: Any, position: int):
        self.call, self.unit, self.position, self.before = call, unit, position, []

    def fail(self, why: str) -> NoKernel:
        return no_kernel(self.call, why)

    def require(self, condition: bool, why: str) -> None:
        if not condition:
            raise self.fail(why)

    # ---- arguments

    def arg(self, k: int) -> Any:
        self.require(-len(self.call.args) <= k < len(self.call.args), f"argument {k} is missing")
        return self.call.args[k]

    def tensor(self, k: int) -> Tensor:
        self.require(isinstance(self.arg(k), Tensor), f"argument {k} is no tensor")
        return self.arg(k)

    @property
    def out(self) -> Tensor:
        return self.tensor(-1)

    def number(self, k: int) -> float | int:
        value = self.arg(k)
        self.require(isinstance(value, int | float), f"argument {k} is no number")
        return value

    def ints(self, k: int, length: int | None = None) -> list[int]:
        value = self.arg(k)
        self.require(isinstance(value, list) and all(type(v) is int for v in value), f"argument {k} is no list of integers")
        if length is not None and len(value) == 1:
            value = value * length
        self.require(length is None or len(value) == length, f"argument {k} has {len(value)} entries, expected {length}")
        return value

    # ---- C expressions

    def pointer(self, t: Tensor | None, ctype: str | None = None) -> str:
        """C expression for the tensor's first element (0 for an absent optional tensor)."""
        if t is None:
            return "0"
        if t.arena is None and t.data is None:
            raise self.fail("a tensor has neither planned memory nor content")
        if ctype is not None and t.ctype != ctype:
            raise self.fail(f"a tensor is {t.ctype}, expected {ctype}")
        return self.unit.pointer(t)

    def p(self, k: int, ctype: str | None = None) -> str:
        value = self.arg(k)
        self.require(value is None or isinstance(value, Tensor), f"argument {k} is no tensor")
        return self.pointer(value, ctype)

    def as_type(self, t: Tensor, ctype: str) -> str:
        """Pointer to the tensor's values in another element type: a constant folded here, else a cast into scratch."""
        if t.ctype == ctype:
            return self.pointer(t)
        names = {"float": "f32", "int64_t": "i64", "uint8_t": "u8", "int32_t": "i32", "int8_t": "s8"}
        cast = f"lfwd_cast_{names.get(t.ctype)}_{names.get(ctype)}"
        self.require(cast in CASTS, f"no conversion from {t.ctype} to {ctype}")
        scratch = self.scratch(t.count * (8 if ctype == "int64_t" else 4 if ctype == "float" else 1))
        self.before.append(f"{cast}({self.pointer(t)}, {t.count}, {scratch});")
        return scratch

    def scratch(self, nbytes: int) -> str:
        """Pointer to working memory of this call, 0 where it needs none."""
        return self.unit.scratch(nbytes, self.position) if nbytes else "0"

    def scalar(self, value: float | int, ctype: str) -> str:
        """Pointer to one constant."""
        return self.unit.constant(ctype, [value])

    def table(self, ctype: str, fields: list) -> str:
        return self.unit.table(ctype, fields)

    def contiguous(self, *tensors: Tensor | None) -> None:
        """Refuse a memory layout other than the logical one."""
        for t in tensors:
            if t is not None and t.strides != _row_major(t.shape) and t.count > 1:
                different = [d for d, (a, b) in enumerate(zip(t.strides, _row_major(t.shape), strict=True)) if a != b]
                if any(t.shape[d] != 1 for d in different):
                    raise self.fail(f"a tensor of shape {t.shape} lies in dimension order {t.order}, the float kernel reads NCHW")

    def dim(self, k: int, rank: int) -> int:
        d = self.number(k)
        self.require(-rank <= d < max(rank, 1), f"dimension {d} of {rank}")
        return d % rank if rank else 0


CASTS = {f"lfwd_cast_{pair}" for pair in ("u8_f32", "i64_f32", "i32_f32", "s8_f32", "u8_i64", "i64_u8", "f32_i64", "f32_u8")}


def number(value: float | int, ctype: str) -> str:
    """A C literal with exactly this value."""
    if ctype == "float":
        value = struct.unpack("<f", struct.pack("<f", value))[0]
        if value != value:
            return "NAN"
        if value in (float("inf"), float("-inf")):
            return "INFINITY" if value > 0 else "-INFINITY"
        text = repr(value) if struct.pack("<f", float(f"{value:.9g}")) != struct.pack("<f", value) else f"{value:.9g}"
        return (text if any(c in text for c in ".en") else text + ".0") + "f"
    value = int(value)
    if ctype == "int64_t":
        return "INT64_MIN" if value == -(2**63) else f"INT64_C({value})"
    if ctype == "int32_t" and value == -(2**31):
        return "INT32_MIN"
    return str(value)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
