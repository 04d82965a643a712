"""Refused before training: a rule that keeps batch norm's statistics as stored, on a network that has none yet."""

from __future__ import annotations

from torch import nn

from ..errors import LightningFwdError
from ..graph.operand import given
from ..graph.rewritten import RewrittenModel
from ..methods import METHODS


def fresh_norms(net: nn.Module) -> list[nn.Module]:
    """The batch norms of a network if every one still is as it was built (mean 0, variance 1, no batch seen), else none."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    touched = (
        bool(
            given(n.running_mean).any()
            or (given(n.running_var) != 1).any()
            or (n.num_batches_tracked is not None and n.num_batches_tracked > 0)
        )
        for n in norms
    )
    return [] if any(touched) else list(norms)


def refuse_fresh_norms(model: RewrittenModel) -> None:
    """Refuse to start where the network looks untrained and the rule leaves its batch norms untrained: it would stay near chance.

    Its activations grow or die from layer to layer; a head alone, or statistics alone, learn nothing from features as drawn.

    Raises:
        LightningFwdError: every batch norm has the statistics that it was built with, and the rule will not train them along.
    """
    method = model.method
    if not method.freeze_batch_norm or not fresh_norms(model):
        return
    rule, network = type(method).__name__, type(model.original).__name__
    able = ", ".join(f"'{name}'" for name, known in METHODS.items() if known.batch_norm == "train")
    own = f"or {method.from_scratch}; " if method.from_scratch else ""
    raise LightningFwdError(
        f"{rule} expects a pretrained network, and {network} looks untrained: its batch norms have seen no batch yet (mean 0, variance 1)",
        f"{rule} keeps these statistics as they are or trains no features, and would stay near chance from scratch",
        f"load trained weights first; from scratch train by a rule that trains batch norm along: strategy={able}; {own}"
        "to train all the same ForwardOnlyStrategy(method, from_scratch=True)",
    )
