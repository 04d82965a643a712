"""Let the last layer read every block, not only the last one: what drift blurs late may still stand early."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from ..errors import RewriteError
from ..graph.blocks import Block, find_blocks, layer_of, shape_of, units_last
from ..graph.capture import capture
from ..graph.plain_layers import is_plain
from ..graph.programs import whole
from ..graph.segment import Segment

FEATURES = "block_features"  #: the module that standardises what the head reads beside its own input
_CHUNK = 250  #: samples run at a time


@torch.no_grad()
def widen_head(net: nn.Module, samples: Tensor) -> fx.GraphModule:
    """The network with a head over all its blocks: ``W [z, f]`` in place of ``W f``.

    f is what the head read before, z the average of each channel behind each earlier block (a child of the network that holds layers),
    standardised by ``samples``. The weights start at ``[0, W]``, so it predicts what the network did. Any rule that trains the head then
    trains this one, and ``unwrap`` gives back the network that is returned here: plain torch, with the original's layers under their
    names and the wider head.

    Args:
        net: a classifier that ends in a linear layer; not changed, but its layers are shared, all but the head.
        samples: inputs ``(N, ...)`` of the target, no labels.

    Raises:
        CaptureError, RewriteError: the network cannot be captured, ends in something else, or has a single block.
    """
    captured = capture(net, samples[:2])
    if any(True for _ in captured.inserted.children()):
        raise RewriteError(
            f"{type(net).__name__} cannot be given a head over all blocks", "it uses functional dropout", "make the dropout a module"
        )
    root = captured.graph_module
    blocks = find_blocks(root)
    head_node, head = _head_of(blocks, root, net)
    taps = _ends(blocks[:-1])
    if not taps:
        raise RewriteError(
            f"{type(net).__name__} has one block before its head", "a head over all blocks would read the same twice", "train its own head"
        )
    graph, pooled = root.graph, []
    with graph.inserting_before(head_node):
        for block in taps:
            dims = len(shape_of(block.output))
            over = tuple(range(1, dims - 1)) if units_last(block.nodes, root) else tuple(range(2, dims))
            pooled.append(graph.call_method("mean", (block.output, over)) if over else block.output)
        together = graph.call_function(torch.cat, (pooled, 1))
    nodes, inputs, _ = whole(graph)
    until = Segment(nodes[: nodes.index(together) + 1], inputs, [together])
    features = torch.cat([until(root.eval(), part)[0] for part in samples.split(_CHUNK)])
    standardise = nn.BatchNorm1d(features.shape[1], affine=False).to(features.device, features.dtype).eval()
    standardise.running_mean.copy_(features.mean(0))
    standardise.running_var.copy_(features.var(0, correction=0))
    root.add_submodule(FEATURES, standardise)
    with graph.inserting_before(head_node):
        z = graph.call_module(FEATURES, (together,))
        head_node.replace_input_with(head_node.args[0], graph.call_function(torch.cat, ([z, head_node.args[0]], 1)))
    graph._tracer_cls = None  # a pickled GraphModule is traced anew by this class, and the capture's own takes arguments
    wide = fx.GraphModule(root, graph, type(net).__name__)
    parent, _, name = head_node.target.rpartition(".")
    setattr(wide.get_submodule(parent), name, _widened(head, features.shape[1]))
    return wide.train(net.training)


def _head_of(blocks: list[Block], root: nn.Module, net: nn.Module) -> tuple[fx.Node, nn.Linear]:
    node = next((n for n in reversed(blocks[-1].nodes) if layer_of(n, root)), None)
    head = root.get_submodule(node.target) if node is not None and node.op == "call_module" else None
    if not is_plain(head, nn.Linear) or len(shape_of(node.args[0])) != 2:
        found = "no layer" if node is None else layer_of(node, root)
        raise RewriteError(
            f"{type(net).__name__} cannot be given a head over all blocks",
            f"its last layer, {found}, is no plain linear layer on one row of features per sample",
            "train its own head",
        )
    return node, head


def _ends(blocks: list[Block]) -> list[Block]:
    """The last block of each of the network's children but the last one, which gives what the head reads anyway.

    Where one child holds all that comes before the head (``features``), its children count, and so on inwards.
    """
    last: dict[str, Block] = {}
    for depth in range(1, 2 + max((block.name.count(".") for block in blocks), default=0)):
        last = {".".join(block.name.split(".")[:depth]): block for block in blocks}
        if len(last) > 1:
            break
    return list(last.values())[:-1]


def _widened(head: nn.Linear, more: int) -> nn.Linear:
    wide = copy.deepcopy(head)
    wide.in_features += more
    wide.weight = nn.Parameter(torch.cat([head.weight.new_zeros(head.out_features, more), head.weight.detach()], 1))
    return wide
