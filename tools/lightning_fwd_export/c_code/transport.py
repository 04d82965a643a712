"""What sets a layer right between two rounds: the map from sums of its inputs, and the map's way into its weight."""

from __future__ import annotations

from .kernels import Context, kernel, number
from .layers import axis_of

_OF_VARIANCES = 0.01  #: of the floor, where values are mapped one by one: lightning_fwd.methods.alignment.transport


@kernel("lfwd::transport.out")
def _transport(c: Context) -> str:
    total, products, count, deviation, correlation, floor, strength = (c.arg(k) for k in range(7))
    n = total.count
    c.contiguous(products, c.out)
    c.require(deviation.count == n and count.count == 1 and c.out.shape == products.shape, "the source's moments do not match the sums")
    sums = f"{c.pointer(total, 'float')}, {c.pointer(products, 'float')}, {c.pointer(count, 'int64_t')}, {c.pointer(deviation, 'float')}"
    of, out = number(strength, "float"), c.pointer(c.out, "float")
    if len(products.shape) == 1:
        return f"lfwd_scaling_f32({sums}, {n}, {number(_OF_VARIANCES * floor, 'float')}, {of}, {out})"
    c.require(products.shape == (n, n) and (n == 1 or correlation.count == n * (n - 1) // 2), "the correlations do not match the sums")
    triangle = c.pointer(correlation, "int16_t")
    return f"lfwd_transport_f32({sums}, {triangle}, {n}, {number(floor, 'float')}, {of}, {c.scratch(4 * n * (n + 2))}, {out})"


@kernel("lfwd::fold_.")
def _fold(c: Context) -> str:
    weight, matrix, groups = c.tensor(0), c.tensor(1), c.number(2)
    c.contiguous(weight, matrix)
    pointers, n = f"{c.pointer(weight, 'float')}, {c.pointer(matrix, 'float')}", matrix.shape[0]
    if len(matrix.shape) == 1:
        c.require(
            len(weight.shape) > 2 and weight.shape[0] % groups == 0 and n == groups * weight.shape[1], "factors do not match the weight"
        )
        return f"lfwd_fold_single_f32({pointers}, {axis_of(weight, 1)}, {groups})"
    row = weight.count // weight.shape[0]
    c.require(groups == 1 and n in (row, weight.shape[1]), f"a map of {n} values does not match a weight of shape {weight.shape}")
    axis = f"(lfwd_axis){{{weight.shape[0]}, {n}, {row // n}}}"
    return f"lfwd_fold_f32({pointers}, {axis}, {c.scratch(4 * n)})"
