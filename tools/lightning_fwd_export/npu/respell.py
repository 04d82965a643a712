"""One spelling for what networks write in several ways: ReLU, pooling to one position, and flattening as modules."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from lightning_fwd.graph.blocks import shape_of

#: prefix of the modules that take the place of functions
SPELT = "lfwd_spelt"
#: in a node's meta: operation, name and target of what it takes the place of
WRITTEN = "lfwd_written"
_FLATTENING = (torch.flatten, torch.reshape, torch.squeeze, "flatten", "view", "reshape", "squeeze")


def respell(module: fx.GraphModule) -> None:
    """Rewrite a traced network in place. It computes the same."""
    for node in list(module.graph.nodes):
        if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
            continue
        source, shape = node.all_input_nodes[0], shape_of(node)
        if node.target in (relu, torch.relu, "relu") and not _argument(node, 1, "inplace", False):
            _become(module, node, source, nn.ReLU())
        elif node.target in (torch.mean, "mean") and _is_map(source) and _dimensions(node) == {2, 3}:
            pooled = (nn.AdaptiveAvgPool2d(1),) if _argument(node, 2, "keepdim", False) else (nn.AdaptiveAvgPool2d(1), nn.Flatten())
            _become(module, node, source, *pooled)
        elif node.target is adaptive_avg_pool2d and shape is not None and shape[2:] == (1, 1):
            _become(module, node, source, nn.AdaptiveAvgPool2d(1))
        elif node.target in _FLATTENING and _is_map(source) and shape_of(source)[2:] == (1, 1) and shape == shape_of(source)[:2]:
            _become(module, node, source, nn.Flatten())
    module.graph.eliminate_dead_code()  # what only told sizes
    module.graph.lint()
    module.recompile()


def _become(module: fx.GraphModule, node: fx.Node, source: fx.Node, *layers: nn.Module) -> None:
    """Run these in the place of a node; the last one's meta is the node's."""
    for k, layer in enumerate(layers):
        path = f"{SPELT}.{node.name}_{k}"
        module.add_submodule(path, layer.eval())
        with module.graph.inserting_before(node):
            source = module.graph.call_module(path, (source,))
        source.meta = {**node.meta, WRITTEN: (node.op, node.name, node.target)}
        if k < len(layers) - 1:  # pooled
            shape = torch.Size((*shape_of(node), 1, 1))
            source.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(shape=shape, stride=(*node.meta["tensor_meta"].stride, 1, 1))
    node.replace_all_uses_with(source)
    module.graph.erase_node(node)


def _is_map(node: fx.Node) -> bool:
    shape = shape_of(node)
    return shape is not None and len(shape) == 4


def _dimensions(node: fx.Node) -> set[int]:
    """Over which a mean is taken, of four."""
    given = _argument(node, 1, "dim", None)
    dimensions = (given,) if isinstance(given, int) else given or ()  # none given: over all
    return {d % 4 for d in dimensions if isinstance(d, int)}


def _argument(node: fx.Node, at: int, name: str, default):
    return node.kwargs.get(name, node.args[at] if len(node.args) > at else default)
