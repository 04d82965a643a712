"""The arguments of ``manual_backward``, those of ``torch.Tensor.backward``: honoured or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import LightningFwdError


def backward_settings(
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> dict[str, Any]:
    """What of them :meth:`RewrittenModel.backward` takes.

    Raises:
        LightningFwdError: ``create_graph`` or ``inputs``.
    """
    if create_graph:
        raise LightningFwdError(
            "manual_backward(create_graph=True) with a learning rule",
            "a rule's updates are values, there is no graph of them to differentiate again",
            "leave it out, or train by strategy='auto'",
        )
    if inputs is not None:
        raise LightningFwdError(
            "manual_backward(inputs=...) with a learning rule",
            "the rule says which parameters get a gradient",
            "set requires_grad=False on those that are not to learn before fit, or give an optimizer those that are",
        )
    return {"gradient": gradient, "retain_graph": bool(retain_graph)}
