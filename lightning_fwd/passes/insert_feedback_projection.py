"""PEPITA's second input: the first one, modulated by the projected error."""

from __future__ import annotations

from torch import nn

from ..errors import RewriteError
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel


def insert_feedback_projection(model: RewrittenModel, feedback: nn.Module) -> None:
    """Insert ``x_err = feedback(x, error)`` before the first layer; ``error`` ``(B, C)`` becomes a second input of the graph.

    The training graph is then the second pass. Inference and the first pass run the graph as captured.
    """
    if not model.example_input.is_floating_point():
        raise RewriteError(
            f"the error cannot be projected onto an input of {model.example_input.dtype}",
            "a modulated index (of a token, say) is another index or none",
            "rewrite the part of the model behind the embedding, or use local_loss",
        )
    graph = model.graph
    model.inserted.add_module("feedback", feedback.to(model.example_input.device))
    x = next(n for n in graph.nodes if n.op == "placeholder")
    with graph.inserting_after(x):
        error = graph.placeholder("error")
    with graph.inserting_after(error):
        modulated = graph.call_module(f"{INSERTED}.feedback", (x, error))
    modulated.meta.update(tensor_meta=x.meta["tensor_meta"], block=0)
    x.replace_all_uses_with(modulated, delete_user_cb=lambda user: user is not modulated)
