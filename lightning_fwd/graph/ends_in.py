"""What a loss is made of, read off autograd's graph instead of asked for by a gradient for each parameter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

_NODES = 32  # of a longer graph nothing is said: to walk it would cost more than to ask


def ends_in(loss: Tensor, leaves: Sequence[Tensor]) -> bool:
    """Whether all that a loss depends on is known to be among these leaves; False where its graph is long."""
    stack, seen = [loss.grad_fn], 0
    while stack:
        node = stack.pop()
        if node is None:
            continue
        seen += 1
        if seen > _NODES:
            return False
        following = node.next_functions
        if len(following) == 1:
            stack.append(following[0][0])
        elif following:
            stack += [after for after, _ in following]
        elif not any([getattr(node, "variable", None) is leaf for leaf in leaves]):  # the node at a leaf names it
            return False
    return True
