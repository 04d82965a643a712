"""A convolution's backward in parts, so that what it reads and makes need not all be alive at once."""

from __future__ import annotations

import torch

from ...trace.step_graph import StepGraph
from .rewire import copy_of, recompiled

aten = torch.ops.aten


def split_convolution_backward(step: StepGraph) -> StepGraph:
    """Weight gradient, bias gradient and error to the input as three nodes, in this order: the layer's input dies before the error is made.

    Each part takes all of the operands but reads only its own (:func:`lightning_fwd.trace.values.operands_read`).
    """
    step = copy_of(step)
    for node in list(step.graph.nodes):
        if node.target is not aten.convolution_backward.default:
            continue
        wanted = [i for i in (1, 2, 0) if node.args[-1][i]]
        for output in wanted if len(wanted) > 1 else []:
            mask = [i == output for i in range(3)]
            with step.graph.inserting_before(node):
                part = step.graph.create_node("call_function", node.target, (*node.args[:-1], mask))
            part.meta = dict(node.meta)
            part.meta["val"] = tuple(v if m else None for v, m in zip(node.meta["val"], mask, strict=True))
            for user in list(node.users):
                if user.args[1] == output:
                    user.replace_input_with(node, part)
                    part.append(user)
        if not node.users:
            step.graph.erase_node(node)
    return recompiled(step)
