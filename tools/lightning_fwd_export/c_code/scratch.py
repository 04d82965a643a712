"""How much working memory a float kernel asks for: what the functions ``lfwd_*_scratch`` of ``csrc`` say, for the planner.

A test holds both against each other over drawn shapes.
"""

from __future__ import annotations


def conv2d_scratch(kind: str, shape: list[int]) -> int:
    """Floats of scratch.

    Args:
        kind: ``"forward"``, ``"grad_input"`` or ``"update"`` (the weight gradient too).
        shape: the fields of ``lfwd_conv2d_shape``.
    """
    _, in_c, in_h, in_w, out_c, out_h, out_w, k_h, k_w, s_h, s_w, p_h, p_w, d_h, d_w, groups = shape
    sides = ((in_h, out_h, k_h, s_h, p_h, d_h), (in_w, out_w, k_w, s_w, p_w, d_w))
    depthwise, both = groups > 1 and groups == in_c == out_c, s_h > 1 < d_h or s_w > 1 < d_w or max(s_h, s_w) > 4
    if depthwise and not (both and kind == "grad_input"):
        side, beyond = (_turned_side, 4) if kind == "grad_input" else (_padded_side, 3 * s_w)
        return side(*sides[0]) * side(*sides[1]) + beyond
    pointwise = k_h * k_w * s_h * s_w == 1 and p_h == p_w == 0
    if kind == "forward" and not pointwise:
        return 4 * in_c // groups * k_h * k_w
    if kind == "grad_input" and not pointwise and s_h == s_w == 1:
        return 4 * out_c // groups * k_h * k_w
    if kind == "update" and not depthwise and 1 < out_h * out_w <= 16:
        return 4 * in_c // groups * k_h * k_w
    return 0


def _padded_side(in_size: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """One side of a depthwise kernel's copy of a plane with zeros around it."""
    return (out - 1) * stride + (kernel - 1) * dilation + 1


def _turned_side(in_size: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """The same of the output's gradient, whose taps are met in the other direction."""
    before = (kernel - 1) * dilation if stride == 1 else (kernel - 1) // stride
    return before + max((in_size - 1 + pad) // stride + 1, out)
