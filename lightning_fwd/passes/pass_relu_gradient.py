"""Let the gradient of a block's last ReLU through whole."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..graph.blocks import Block, parameters_of
from ..graph.constants import INSERTED
from ..graph.plain_layers import is_plain
from ..graph.rewritten import RewrittenModel

_RELUS = (torch.relu, F.relu, "relu")


def pass_relu_gradient(model: RewrittenModel, relu: nn.Module, blocks: list[Block]) -> list[str]:
    """Replace the ReLU that makes each block's output (pooling, dropout and reshaping may follow it) by ``relu``.

    Returns:
        names of the blocks that end in no ReLU; they keep their activation's own gradient.
    """
    model.inserted.add_module("relu", relu)
    without = []
    for block in blocks:
        node = _last_relu(block, model)
        if node is None:
            without.append(block.name)
            continue
        with model.graph.inserting_after(node):
            new = model.graph.call_module(f"{INSERTED}.relu", (node.all_input_nodes[0],))
        model.replace(node, new)
    return without


def _last_relu(block: Block, model: RewrittenModel) -> fx.Node | None:
    node = block.output
    while node is not None and node.meta.get("block") == block.index:
        if _is_relu(node, model):
            return node
        before = node.all_input_nodes
        node = before[0] if len(before) == 1 and not parameters_of(node, model) else None
    return None


def _is_relu(node: fx.Node, model: RewrittenModel) -> bool:
    if node.op == "call_module":
        return is_plain(model.get_submodule(node.target), nn.ReLU)
    return node.target in _RELUS
