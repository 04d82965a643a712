"""Forward-Forward's input: the sample with a label written into it."""

from __future__ import annotations

from torch import nn

from ..graph.capture import INSERTED
from ..graph.rewritten import RewrittenModel


def insert_label_embedding(model: RewrittenModel, embedding: nn.Module) -> None:
    """Insert ``x_label = embedding(x, label)`` before the first layer; ``label`` ``(B,)`` becomes a second input of the graph."""
    graph = model.graph
    model.inserted.add_module("label_embedding", embedding.to(model.example_input.device))
    x = next(n for n in graph.nodes if n.op == "placeholder")
    with graph.inserting_after(x):
        label = graph.placeholder("label")
    with graph.inserting_after(label):
        embedded = graph.call_module(f"{INSERTED}.label_embedding", (x, label))
    embedded.meta.update(tensor_meta=x.meta["tensor_meta"], block=0)
    x.replace_all_uses_with(embedded, delete_user_cb=lambda user: user is not embedded)


def insert_normalisation(model: RewrittenModel, normalise: nn.Module) -> None:
    """Insert per-sample normalisation on the way into every block but the first, so that goodness cannot leak through length."""
    model.inserted.add_module("normalise", normalise)
    for before, block in zip(model.plan, model.plan[1:], strict=False):
        users = [u for u in before.output.users if u.meta.get("block") == block.index]
        with model.graph.inserting_before(min(users)):
            node = model.graph.call_module(f"{INSERTED}.normalise", (before.output,))
        node.meta.update(block=block.index, tensor_meta=before.output.meta["tensor_meta"])
        for user in users:
            user.replace_input_with(before.output, node)
