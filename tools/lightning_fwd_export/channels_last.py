"""Images channels last in memory before what reads them in int8: a network that permutes its input itself hands them on channels first."""

from __future__ import annotations

import torch
from torch import Tensor, fx

aten = torch.ops.aten
_READ_IMAGES = {
    aten.conv2d.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
    aten.adaptive_avg_pool2d.default,
}


def to_channels_last(module: fx.GraphModule) -> None:
    """Insert the change of layout into an exported graph where an image lies otherwise; one that has none stays as it is."""
    changed = False
    for node in [n for n in module.graph.nodes if n.op == "call_function"]:
        if node.target in _READ_IMAGES and _lies_otherwise(node.args[0]):
            with module.graph.inserting_before(node):
                image = module.graph.call_function(aten.clone.default, (node.args[0],), {"memory_format": torch.channels_last})
            image.meta = {key: value for key, value in node.args[0].meta.items() if key != "val"}
            image.meta["val"] = node.args[0].meta["val"].clone(memory_format=torch.channels_last)
            node.args = (image, *node.args[1:])
            changed = True
        if changed:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            node.meta["val"] = node.target(*args, **kwargs)  # of fake tensors: memory layouts follow
    module.graph.lint()
    module.recompile()


def _lies_otherwise(x: fx.Node) -> bool:
    """Whether an image is channels first. The program's own input of one channel is both at once."""
    value = x.meta["val"]
    image = isinstance(value, Tensor) and value.dim() == 4 and x.op == "call_function"
    return image and value.stride() != torch.empty_like(value, memory_format=torch.channels_last).stride()
