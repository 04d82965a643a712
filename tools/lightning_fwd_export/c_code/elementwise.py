"""Elementwise operators: arithmetic, comparison, selection, conversion."""

from __future__ import annotations

from ..pte import Tensor
from .kernels import Context, kernel, number
from .shapes import broadcast_table

_SUFFIX = {"float": "f32", "int64_t": "i64", "uint8_t": "u8"}
_ARITHMETIC = {
    "float": {"add", "sub", "mul", "div", "maximum", "minimum", "pow", "fmod"},
    "int64_t": {"add", "sub", "mul", "remainder", "fmod", "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left", "shift_right"},
    "uint8_t": {"logical_and", "logical_or", "logical_xor"},
}
_ON_BOOL = {"bitwise_and": "logical_and", "bitwise_or": "logical_or", "bitwise_xor": "logical_xor", "mul": "logical_and"}


def _binary(c: Context, name: str, a, b, alpha: float | int = 1) -> str:
    """``out = name(a, b)``; an operand is a Tensor or a number, converted to the output's element type."""
    out = c.out
    if name in ("eq", "ne", "gt", "ge", "lt", "le"):
        tensors = [t for t in (a, b) if isinstance(t, Tensor)]
        floats = any(t.ctype == "float" for t in tensors) or any(isinstance(v, float) for v in (a, b))
        ctype, known = ("float" if floats else "int64_t"), True
        c.require(out.ctype == "uint8_t", "a comparison must give bool")
    else:
        ctype = out.ctype
        name = _ON_BOOL.get(name, name) if ctype == "uint8_t" else name
        known = name in _ARITHMETIC.get(ctype, ())
    c.require(known, f"not for {ctype}")
    pointers = [c.as_type(v, ctype) if isinstance(v, Tensor) else c.scalar(v, ctype) for v in (a, b)]
    table = broadcast_table(c, out, *(v if isinstance(v, Tensor) else None for v in (a, b)))
    if alpha != 1:
        c.require(ctype == "float" and name in ("add", "sub"), "alpha only with float addition")
        scale = number(alpha if name == "add" else -alpha, "float")
        return f"lfwd_add_scaled_f32({pointers[0]}, {pointers[1]}, {scale}, {table}, {c.pointer(out)})"
    return f"lfwd_{name}_{_SUFFIX[ctype]}({pointers[0]}, {pointers[1]}, {table}, {c.pointer(out)})"


def _register(name: str, *operators: str) -> None:
    kernel(*operators)(lambda c: _binary(c, name, c.arg(0), c.arg(1)))


for _name in ("eq", "ne", "gt", "ge", "lt", "le"):
    _register(_name, f"aten::{_name}.Tensor_out", f"aten::{_name}.Scalar_out")
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _register(_name, f"aten::{_name}.Tensor_out", f"aten::{_name}.Scalar_out")
_register("mul", "aten::mul.out", "aten::mul.Scalar_out")
_register("div", "aten::div.out", "aten::div.Scalar_out")
_register("maximum", "aten::maximum.out")
_register("minimum", "aten::minimum.out")
_register("fmod", "aten::fmod.Tensor_out", "aten::fmod.Scalar_out")
_register("remainder", "aten::remainder.Tensor_out", "aten::remainder.Scalar_out")
_register(
    "shift_right", "aten::bitwise_right_shift.out", "aten::bitwise_right_shift.Tensor_out", "aten::bitwise_right_shift.Tensor_Scalar_out"
)
_register("shift_left", "aten::bitwise_left_shift.out", "aten::bitwise_left_shift.Tensor_out", "aten::bitwise_left_shift.Tensor_Scalar_out")
_register("pow", "aten::pow.Tensor_Scalar_out", "aten::pow.Tensor_Tensor_out")
_register("logical_and", "aten::logical_and.out")
_register("logical_or", "aten::logical_or.out")


@kernel("aten::add.out", "aten::add.Scalar_out")
def _add(c: Context) -> str:
    return _binary(c, "add", c.arg(0), c.arg(1), c.number(2))


@kernel("aten::sub.out", "aten::sub.Scalar_out")
def _sub(c: Context) -> str:
    return _binary(c, "sub", c.arg(0), c.arg(1), c.number(2))


@kernel("aten::rsub.Scalar_out")
def _rsub(c: Context) -> str:
    c.require(c.number(2) == 1, "alpha other than 1")
    return _binary(c, "sub", c.arg(1), c.arg(0))


@kernel("aten::where.self_out")
def _where(c: Context) -> str:
    return _select(c, c.tensor(0), c.arg(1), c.arg(2))


@kernel("aten::masked_fill.Scalar_out")
def _masked_fill(c: Context) -> str:
    return _select(c, c.tensor(1), c.number(2), c.tensor(0))


def _select(c: Context, condition: Tensor, a, b) -> str:
    out = c.out
    c.require(out.ctype in ("float", "int64_t"), f"not for {out.ctype}")
    pointers = [c.as_type(v, out.ctype) if isinstance(v, Tensor) else c.scalar(v, out.ctype) for v in (a, b)]
    table = broadcast_table(c, out, condition, *(v if isinstance(v, Tensor) else None for v in (a, b)))
    name = f"lfwd_where_{_SUFFIX[out.ctype]}"
    return f"{name}({c.pointer(condition, 'uint8_t')}, {pointers[0]}, {pointers[1]}, {table}, {c.pointer(out)})"


def _same_layout(c: Context, a: Tensor, b: Tensor) -> None:
    c.require(a.count == b.count and (a.strides == b.strides or a.count <= 1), "input and output lie differently in memory")


def _unary(name: str, *operators: str) -> None:
    @kernel(*operators)
    def emit(c: Context) -> str:
        _same_layout(c, c.tensor(0), c.out)
        return f"lfwd_{name}_f32({c.as_type(c.tensor(0), 'float')}, {c.out.count}, {c.pointer(c.out, 'float')})"


for _name in (
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
    "ceil",
):
    _unary(_name, f"aten::{_name}.out")


@kernel("aten::gelu.out")
def _gelu(c: Context) -> str:
    c.require(c.arg(1) in (None, "none", "tanh"), f"approximation {c.arg(1)!r}")
    _same_layout(c, c.tensor(0), c.out)
    return f"lfwd_gelu{'_tanh' if c.arg(1) == 'tanh' else ''}_f32({c.p(0, 'float')}, {c.out.count}, {c.pointer(c.out, 'float')})"


@kernel("aten::clamp.out", "aten::hardtanh.out")
def _clamp(c: Context) -> str:
    _same_layout(c, c.tensor(0), c.out)
    if c.out.ctype == "int8_t":
        low, high = (value if c.arg(k) is None else c.number(k) for k, value in ((1, -128), (2, 127)))
        c.require(-128 <= low <= high <= 127, f"bounds {low} and {high} are no int8 range")
        return f"lfwd_clamp_s8({c.p(0, 'int8_t')}, {c.out.count}, {low}, {high}, {c.pointer(c.out)})"
    low = float("-inf") if c.arg(1) is None else c.number(1)
    high = float("inf") if c.arg(2) is None else c.number(2)
    bounds = f"{number(low, 'float')}, {number(high, 'float')}"
    return f"lfwd_clamp_f32({c.p(0, 'float')}, {c.out.count}, {bounds}, {c.pointer(c.out, 'float')})"


@kernel("aten::leaky_relu.out")
def _leaky_relu(c: Context) -> str:
    _same_layout(c, c.tensor(0), c.out)
    return f"lfwd_leaky_relu_f32({c.p(0, 'float')}, {c.out.count}, {number(c.number(1), 'float')}, {c.pointer(c.out, 'float')})"


@kernel("aten::elu.out")
def _elu(c: Context) -> str:
    _same_layout(c, c.tensor(0), c.out)
    factors = ", ".join(number(c.number(k), "float") for k in (1, 2, 3))
    return f"lfwd_elu_f32({c.p(0, 'float')}, {c.out.count}, {factors}, {c.pointer(c.out, 'float')})"


@kernel("aten::logical_not.out", "aten::bitwise_not.out")
def _logical_not(c: Context) -> str:
    return f"lfwd_logical_not_u8({c.p(0, 'uint8_t')}, {c.out.count}, {c.pointer(c.out, 'uint8_t')})"


@kernel("lfwd::relu_backward.out")
def _relu_backward(c: Context) -> str:
    _same_layout(c, c.tensor(0), c.out)
    _same_layout(c, c.tensor(1), c.out)
    return f"lfwd_relu_backward_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {c.out.count}, {c.pointer(c.out, 'float')})"


# ---- operators of the library's own rules (see ops.py)


@kernel("lfwd::positive_bits.out")
def _positive_bits(c: Context) -> str:
    x = c.tensor(0)
    c.contiguous(x)
    c.require(c.out.count == -(-x.count // 8), f"{x.count} elements do not pack into {c.out.count} bytes")
    return f"lfwd_positive_bits_f32({c.p(0, 'float')}, {x.count}, {c.pointer(c.out, 'uint8_t')})"


@kernel("lfwd::where_bits.out")
def _where_bits(c: Context) -> str:
    grad, bits = c.tensor(0), c.tensor(1)
    c.contiguous(grad, c.out)
    c.require(grad.shape == c.out.shape and bits.count == -(-grad.count // 8), "mask and gradient differ in size")
    return f"lfwd_where_bits_f32({c.p(0, 'float')}, {c.p(1, 'uint8_t')}, {grad.count}, {c.pointer(c.out, 'float')})"


@kernel("lfwd::modulate_from_seed.out")
def _modulate_from_seed(c: Context) -> str:
    x, error = c.tensor(0), c.tensor(1)
    c.contiguous(x, error, c.out)
    c.require(len(error.shape) == 2 and x.shape[:1] == error.shape[:1] and x.shape == c.out.shape, "shapes do not match")
    c.require(x.count > 0 and isinstance(c.arg(2), int) and -(2**31) <= c.arg(2) < 2**32, "the seed is no 32-bit integer")
    batch, classes = error.shape
    sizes = f"{batch}, {x.count // batch}, {classes}, {number(c.arg(2), 'int64_t')}, {number(c.number(3), 'float')}"
    return f"lfwd_modulate_from_seed_f32({c.p(0, 'float')}, {c.p(1, 'float')}, {sizes}, {c.pointer(c.out, 'float')})"
