"""Which values of a captured graph do not depend on its input: parameters, buffers, and what is computed from them alone."""

from __future__ import annotations

from torch import fx

INSERTED = "_lfwd"  #: prefix under which everything the rewrite adds to a model lives


#: the number of steps done, as a buffer; what is random in a step is a function of it
COUNTER = f"{INSERTED}.counter"


def is_inserted(key: str) -> bool:
    """Whether a state_dict key is of state that a rewrite inserted."""
    return any(part.startswith(INSERTED) for part in key.split("."))


def mark_constants(graph: fx.Graph) -> None:
    """Mark every node that no placeholder flows into (``weight.t()``, a standardised weight, an embedding of positions)."""
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and all(is_constant(i) for i in node.all_input_nodes):
            node.meta["constant"] = True


def is_constant(node: fx.Node) -> bool:
    """Whether a value is the same for every input. Such a value belongs to each stretch of the graph that reads it."""
    return node.op == "get_attr" or node.meta.get("constant", False)
