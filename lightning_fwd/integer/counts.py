"""What the operators of a step in integers do, for the ledger: multiply-accumulates, operations on one element, scratch of their kernels.

An operation on one element is an addition, product, shift, comparison or look into a table, on 32 bits. A draw is half a hash for its
column and a share of one for its row (:func:`.arithmetic.draws`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from ..graph.elementwise_count import count_elementwise
from . import body, body_features, directions, goodness, layers, rescale, softmax, updates  # noqa: F401  (they define the operators)
from .lowering import lfwd

_HASH = 8  #: operations of one
_UPDATE = 3  #: of a weight, beside its draw: the row's draw added, the shift, the difference
Shape = torch.Size | tuple[int, ...]


def draws(rows: int, columns: int) -> int:
    """Operations that the draws of a matrix take."""
    return _HASH * (math.ceil(columns / 2) + rows)


def _matrix(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight.numel() // weight.shape[0]


def _learning(weight: Tensor, x: Tensor, groups: int = 1) -> tuple[int, int]:
    """Rows and columns of what learns of a weight, which reads x."""
    return weight.shape[0], x.shape[1] // groups * math.prod(weight.shape[2:])


def _rounded(rows: int, columns: int) -> int:
    return rows * columns * _UPDATE + draws(rows, columns)


def _change(self: Tensor, exponents: Tensor, c: Tensor, c_exponent: Tensor, x: Tensor, *rest: Any) -> tuple[int, int]:
    return _learning(self, x, rest[-1] if isinstance(rest[-1], int) else 1)


def _accelerated(*args: Any) -> int:  # the change, and momentum times the old velocity, each rounded
    return 2 * _rounded(*_change(*args))


def _per(values: int) -> Callable[..., int]:
    return lambda first, *_: values * first.numel()


def _signs(parameter: Tensor, *_: Any) -> int:
    return (_HASH + 2) * parameter.numel()


MACS: dict[str, Callable[..., int]] = {
    "int_linear": lambda x, weight, *_, out_val: out_val.numel() * weight.shape[1],
    "int_linear_error": lambda e, weight, *_, out_val: out_val.numel() * weight.shape[1],
    "int_linear_back": lambda e, weight, *_, out_val: e.numel() * weight.shape[1],
    "int_conv": lambda x, weight, *_, out_val: out_val.numel() * weight[0].numel(),
    "int_conv_onto": lambda x, weight, *_, out_val: out_val.numel() * weight[0].numel(),
    "int_conv_error": lambda e, weight, *_, out_val: out_val.numel() * weight[0].numel(),
    "int_conv_back": lambda e, weight, *_, out_val: e.numel() * weight[0].numel(),
    "int_body_conv": lambda x, weight, *_, out_val: out_val.numel() * weight[0].numel(),
    "int_body_depthwise": lambda x, weight, *_, out_val: out_val.numel() * math.prod(weight.shape[1:3]),
    "int_slope": lambda e, *_, out_val: e.numel(),
    "int_slope_shift": lambda e, *_, out_val: e.numel(),
    **{
        f"int_{kind}_{what}": lambda *args, out_val: args[2].numel() * _change(*args)[1]
        for kind in ("outer", "conv")
        for what in ("update", "velocity")
    },
}

ELEMENTWISE: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("int_outer_update", "int_conv_update"), lambda *args: _rounded(*_change(*args))),
    **dict.fromkeys(("int_outer_velocity", "int_conv_velocity"), _accelerated),
    "int_apply_velocity": lambda self, velocity, *_: _rounded(*_matrix(velocity)),
    "int_bias_update": lambda self, c, *_: c.numel() + _rounded(self.numel(), 1),
    "int_bias_velocity": lambda self, c, *_: c.numel() + 2 * self.numel() + _rounded(self.numel(), 1),
    "int_moved": _signs,
    "int_moved_bias": _signs,
    "int_direction_update": lambda self, *_: _HASH * self.numel() + _rounded(*_matrix(self)),
    "int_direction_bias_update": lambda self, *_: _HASH * self.numel() + _rounded(self.numel(), 1),
    "int_requantise": lambda acc, exponent, out, mult, relu: (1 + (mult != 1 << 15)) * acc.numel(),
    "int_saturated": lambda weight, counter: 2 * weight.numel() // updates.RATCHET_EVERY,
    "int_ratchet": lambda *_: 0,  # once in many steps
    "int_pool_sum": lambda x, kernel, *_: x.numel(),
    "int_softmax_error": _per(8),
    "int_narrow": _per(2),
    "int_narrow_shift": _per(2),
    "int_apply_rate": _per(2),
    "int_add": _per(3),
    "int_add_sums": _per(3),
    "int_body_add": _per(4),
    "int_body_features": _per(3),
    "int_contrast_error": _per(3),
    "int_sample_norm": _per(4),
    "int_wrong_labels": _per(_HASH + 3),
    **dict.fromkeys(("int_needed_exponent", "int_mask", "int_error_sum", "int_body_sums", "int_label_rows"), _per(1)),
    **dict.fromkeys(("int_label_overlay", "int_channels_last", "int_channels_first"), lambda *_: 0),
    **dict.fromkeys(("int_exponent", "int_larger", "int_smaller", "int_coarsen", "int_rate_exponent"), lambda *_: 1),
    **dict.fromkeys(("int_ratchet_exponents", "int_next"), _per(1)),
}

SCRATCH: dict[str, Callable[..., int]] = {  # bytes, as ``csrc/lfwd_integer.h`` says
    **dict.fromkeys(("int_conv", "int_conv_onto"), lambda x, weight, *_: 6 * weight[0].numel() + 16),
    "int_conv_back": lambda e, weight, *rest: 8 * (weight.shape[0] // rest[-1]) * (math.prod(weight.shape[2:]) + 1) + 16,
    "int_body_conv": lambda x, weight, *_: 4 * weight[0].numel() + 16,
    "int_body_depthwise": lambda x, *_: x.shape[3] + 16,
    **dict.fromkeys(("int_outer_update", "int_conv_update"), lambda *args: _columns(1, *_change(*args))),
    **dict.fromkeys(("int_outer_velocity", "int_conv_velocity"), lambda *args: _columns(2, *_change(*args))),
    "int_apply_velocity": lambda self, velocity, *_: 2 * _matrix(velocity)[1] if self.dtype == torch.int16 else 0,
    "int_direction_update": lambda self, *_: 2 * _matrix(self)[1] + 2,
}


def _columns(lines: int, rows: int, columns: int) -> int:
    return 2 * ((lines * columns + 1) // 2 * 2) + 1536 + 48 * (rows + 1) + 32


for _name, _count in ELEMENTWISE.items():
    count_elementwise(getattr(lfwd, _name))(_count)
for _name, _macs in MACS.items():
    flop_registry[getattr(lfwd, _name)] = lambda *args, out_val, _macs=_macs, **_: 2 * _macs(*args, out_val=out_val)
