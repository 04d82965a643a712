"""Run a 1-d network as a 2-d one of height 1: the Cortex-M dialect has int8 operators for images ``(B, C, H, W)`` only.

``(B, C, L)`` becomes ``(B, C, 1, L)``, channels last, at the first 1-d convolution or pooling and stays so through everything that means
the same there; whatever else reads it reads three dimensions again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

aten = torch.ops.aten
_SAME = {
    aten.batch_norm.default,
    aten.relu.default,
    aten.relu_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardsigmoid.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.silu.default,
    aten.silu_.default,
    aten.gelu.default,
    aten.dropout.default,
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
}
_POOLS = {  # to the 2-d operator, and what each argument behind the input is along the height
    aten.max_pool1d.default: (aten.max_pool2d.default, (1, 1, 0, 1)),
    aten.avg_pool1d.default: (aten.avg_pool2d.default, (1, 1, 0)),
    aten.adaptive_avg_pool1d.default: (aten.adaptive_avg_pool2d.default, (1,)),
}
_CONVS = {aten.conv1d.default, aten.conv1d.padding, aten.conv2d.padding}


def to_height_one(module: fx.GraphModule) -> None:
    """Rewrite an exported graph in place. One without 1-d layers, and without padding that is given by name, stays as it is."""
    graph = module.graph
    if not any(n.target in _CONVS or n.target in _POOLS for n in graph.nodes):
        return
    images: dict[fx.Node, fx.Node] = {}
    for node in [n for n in graph.nodes if n.op == "call_function"]:
        with graph.inserting_before(node):
            new = _as_image(module, node, images)
            if new is None:
                continue
            if node.meta["val"].dim() == 3:
                line = _call(node, aten.squeeze.dim, _call(node, aten.clone.default, new, memory_format=torch.contiguous_format), 2)
                images[line], new = new, line
            new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    for node in graph.nodes:
        if node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            node.meta["val"] = node.target(*args, **kwargs)  # of fake tensors: shapes, types and memory layouts


def _call(like: fx.Node, target: Callable, *args, **kwargs) -> fx.Node:
    node = like.graph.call_function(target, args, kwargs)
    node.meta = {key: value for key, value in like.meta.items() if key != "val"}
    return node


def _as_image(module: fx.GraphModule, node: fx.Node, images: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """The node's result with a height, or None where it has none."""

    def image(x: fx.Node) -> fx.Node:
        if x not in images:
            images[x] = _call(node, aten.clone.default, _call(node, aten.unsqueeze.default, x, 2), memory_format=torch.channels_last)
        return images[x]

    x = node.args[0] if node.args else None
    if node.target in _CONVS:
        return _convolution(module, node, image(x) if node.args[1].meta["val"].dim() == 3 else x)
    if node.target in _POOLS:
        target, along_height = _POOLS[node.target]
        sizes = [[h, *(v if v else node.args[1])] for h, v in zip(along_height, node.args[1:], strict=False)]
        return _call(node, target, image(x), *sizes, *node.args[1 + len(along_height) :])
    if node.target in _SAME and any(a in images for a in node.all_input_nodes):
        three = {a for a in node.all_input_nodes if a.meta["val"].dim() == 3}
        if all(a in three or node.target is aten.batch_norm.default for a in node.all_input_nodes):
            return _call(node, node.target, *(image(a) if isinstance(a, fx.Node) and a in three else a for a in node.args), **node.kwargs)
    if node.target is aten.pad.default and x in images and len(node.args[1]) == 2 and "constant" in (*node.args[2:3], "constant")[:1]:
        return _call(node, node.target, images[x], *node.args[1:])
    if node.target is aten.cat.default and any(a in images for a in x):
        dim = (*node.args[1:], 0)[0]
        return _call(node, node.target, [image(a) for a in x], dim + (dim > 1))
    if node.target is aten.mean.dim and x in images and [d % 3 for d in node.args[1]] == [2]:
        return _call(node, node.target, images[x], [2, 3], *node.args[2:])
    return None


def _convolution(module: fx.GraphModule, node: fx.Node, x: fx.Node) -> fx.Node:
    """As ``conv2d`` with its padding in numbers."""
    weight, bias, stride, padding, dilation, groups = (*node.args[1:], *((None, 1, 0, 1, 1)[len(node.args) - 2 :]))
    kernel = list(weight.meta["val"].shape[2:])
    n = len(kernel)
    stride, dilation = (v * n if len(v) == 1 else v for v in ([v] if isinstance(v, int) else list(v) for v in (stride, dilation)))
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        padding = [t // 2 for t in total]
        if any(t % 2 for t in total):  # the longer side is the last one
            x = _call(node, aten.pad.default, x, [v for t in reversed(total) for v in (0, t % 2)])
    padding = [padding] * n if isinstance(padding, int) else list(padding)
    if n == 1:
        weight = _with_height(module, node, weight)
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    return _call(node, aten.conv2d.default, x, weight, bias, stride, padding, dilation, groups)


def _with_height(module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> fx.Node:
    """A parameter ``(out, in, 1, k)`` in the place of ``(out, in, k)``; the quantiser looks for one."""
    value: object = module
    for part in weight.target.split("."):
        value = getattr(value, part)
    name = "flat_" + "".join(c if c.isalnum() else "_" for c in weight.target)
    setattr(module, name, nn.Parameter(value.detach().unsqueeze(2), requires_grad=False))
    new = node.graph.get_attr(name)
    new.meta = {**weight.meta, "val": weight.meta["val"].unsqueeze(2)}
    return new
