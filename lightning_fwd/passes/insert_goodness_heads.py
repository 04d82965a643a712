"""A goodness head at the end of each block, and a wall before the next: local losses need both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..graph.blocks import Block, shape_of, units_last
from ..graph.constants import INSERTED
from ..graph.priced_as import PricedAs
from ..graph.rewritten import RewrittenModel


class Heads(nn.ModuleDict):
    """The heads of all blocks, by the block's index."""

    priced_as = PricedAs(state="heads", values="heads")


def insert_goodness_heads(
    model: RewrittenModel,
    make_head: Callable[[Block, tuple[int, ...], bool], nn.Module | None],
    blocks: list[Block] | None = None,
) -> None:
    """Insert ``goodness = head(h)`` after the output ``h`` of each block.

    Args:
        make_head: from a block, the shape of its output (batch first), and whether its units lie in the last dimension (else in dimension
            1) to the head, or None for no head there. The head's output, whatever it is (class logits ``(B, C)``, goodness ``(B,)``),
            leaves the block beside ``h``.
        blocks: all by default.
    """
    heads = Heads()
    model.inserted.add_module("heads", heads)
    for block in model.plan if blocks is None else blocks:
        head = make_head(block, shape_of(block.output), units_last(block.nodes, model))
        if head is None:
            continue
        heads[str(block.index)] = head.to(model.example_input.device, block.output.meta["tensor_meta"].dtype)
        with model.graph.inserting_after(block.output):
            node = model.graph.call_module(f"{INSERTED}.heads.{block.index}", (block.output,))
        node.meta.update(block=block.index, emit="goodness")


def insert_block_walls(model: RewrittenModel) -> None:
    """Detach the activation that enters each block but the first, so that the graph itself shows where learning stops."""
    for before, block in zip(model.plan, model.plan[1:], strict=False):
        users = [u for u in before.output.users if u.meta.get("block") == block.index]
        with model.graph.inserting_before(min(users)):
            wall = model.graph.call_function(torch.detach, (before.output,))
        wall.meta.update(block=block.index, tensor_meta=before.output.meta["tensor_meta"])
        for user in users:
            user.replace_input_with(before.output, wall)
