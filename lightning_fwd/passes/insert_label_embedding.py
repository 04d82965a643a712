"""Forward-Forward's input: the sample with a label written into it, and normalised on the way from block to block."""

from __future__ import annotations

from torch import fx, nn

from ..graph.blocks import Block
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel


def insert_label_embedding(model: RewrittenModel, embedding: nn.Module) -> None:
    """Insert ``x_label = embedding(x, label)`` before the first layer; ``label`` ``(kB, C)`` becomes a second input of the graph."""
    graph = model.graph
    model.inserted.add_module("label_embedding", embedding.to(model.example_input))
    x = next(n for n in graph.nodes if n.op == "placeholder")
    with graph.inserting_after(x):
        label = graph.placeholder("label")
    with graph.inserting_after(label):
        embedded = graph.call_module(f"{INSERTED}.label_embedding", (x, label))
    embedded.meta.update(tensor_meta=x.meta["tensor_meta"], block=0)
    x.replace_all_uses_with(embedded, delete_user_cb=lambda user: user is not embedded)


def insert_normalisation(model: RewrittenModel, normalise: nn.Module, first: bool = False) -> None:
    """Insert per-sample normalisation on the way into every block but the first, so that goodness cannot leak through length.

    Args:
        first: normalise the model's input too (after a label written into it).
    """
    model.inserted.add_module("normalise", normalise)
    for before, block in zip(model.plan, model.plan[1:], strict=False):
        _insert(model, before.output, block)
    if first:
        x = next(n for n in model.graph.nodes if n.op == "placeholder")
        _insert(model, next((u for u in x.users if u.target == f"{INSERTED}.label_embedding"), x), model.plan[0])


def _insert(model: RewrittenModel, value: fx.Node, block: Block) -> None:
    users = [u for u in value.users if u.meta.get("block") == block.index]
    with model.graph.inserting_before(min(users)):
        node = model.graph.call_module(f"{INSERTED}.normalise", (value,))
    node.meta.update(block=block.index, tensor_meta=value.meta["tensor_meta"])
    for user in users:
        user.replace_input_with(value, node)
