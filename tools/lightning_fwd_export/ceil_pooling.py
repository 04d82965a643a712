"""Max pooling with ``ceil_mode`` in int8: the dialect has it with whole windows only, so the image is padded to whole windows.

The value must be one that never wins. Behind a ReLU (ReLU6, a clamp from 0 on) that is 0; elsewhere the pooling stays as it is, and the
exporter names it as an operator that has no kernel.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional as F

aten = torch.ops.aten
_NOT_NEGATIVE = {aten.relu.default, aten.relu_.default, aten.relu6.default, aten.relu6_.default, aten.sigmoid.default}
_FROM_ZERO = {aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default}


def to_whole_windows(module: fx.GraphModule) -> None:
    """Rewrite an exported graph in place: ``ceil_mode`` goes where every window is whole, or after padding below and right."""
    for node in module.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        image, kernel, *rest = node.args
        kernel, stride, padding, dilation = (
            _pair(v) for v in (kernel, *(rest[k] if len(rest) > k else d for k, d in enumerate((kernel, 0, 1))))
        )
        if len(rest) < 4 or not rest[3] or dilation != [1, 1]:
            continue
        more = [
            max((out - 1) * s + k - 2 * p - n, 0)
            for n, out, k, s, p in zip(
                image.meta["val"].shape[2:], node.meta["val"].shape[2:], kernel, stride or kernel, padding, strict=True
            )
        ]
        if any(more):
            if not _is_never_negative(image):
                continue
            amounts = [0, more[1], 0, more[0]]
            with module.graph.inserting_before(node):
                padded = module.graph.call_function(aten.constant_pad_nd.default, (image, amounts, 0.0))
            padded.meta = {key: value for key, value in image.meta.items() if key != "val"} | {"val": F.pad(image.meta["val"], amounts)}
            image = padded
        node.args = (image, kernel, stride or kernel, padding)
    module.graph.lint()
    module.recompile()


def _pair(value: int | list[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _is_never_negative(x: fx.Node) -> bool:
    return x.target in _NOT_NEGATIVE or (x.target in _FROM_ZERO and len(x.args) > 1 and x.args[1] == 0)
