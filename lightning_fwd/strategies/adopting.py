"""What an optimizer has to know of the parameters that a rule inserted, where it was built before the rewrite."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import LightningFwdError
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel
from .install import unwrap


def adopt_inserted(optimizer: Optimizer, network: RewrittenModel, module: nn.Module) -> list[nn.Parameter]:
    """Give an optimizer of explicit parameters the inserted heads too, in a group that it has: a scheduler would not know one of their own.

    Returns:
        those that it did not know.

    Raises:
        LightningFwdError: there is no optimizer for what learns; ``module`` is unwrapped.
    """
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    # Those that do not learn too: an optimizer that is built after the rewrite, as when a fit is resumed, has them all.
    missing = {n: p for n, p in network.inserted.named_parameters() if id(p) not in known}
    if not any(p.requires_grad for p in missing.values()) and not optimizer.param_groups or not missing:
        return []
    if not optimizer.param_groups:  # Lightning's stand-in where configure_optimizers returns none
        unwrap(module)
        raise LightningFwdError(
            f"{type(network.method).__name__} has no optimizer for what it inserts ({', '.join(list(missing)[:3])})",
            "configure_optimizers returned none, so nothing would ever step them",
            "return an optimizer; or choose a rule, or settings, without heads that learn, as LocalLoss(head='random')",
        )
    group = _group_of_the_head(optimizer, network)
    group["params"].extend(missing.values())
    if "param_names" in group:
        group["param_names"].extend(f"{INSERTED}.{name}" for name in missing)
    if optimizer.state:  # made when it was built (Adagrad)
        settings = {k: v for k, v in optimizer.defaults.items() if k in inspect.signature(type(optimizer).__init__).parameters}
        optimizer.state.update(type(optimizer)(missing.values(), **settings).state)
    return [*missing.values()]


def give_up_inserted(optimizer: Optimizer, adopted: list[nn.Parameter]) -> None:
    """Take back what :func:`adopt_inserted` gave."""
    those = {id(p) for p in adopted}
    for group in optimizer.param_groups:
        if "param_names" in group:
            group["param_names"][:] = [n for n, p in zip(group["param_names"], group["params"], strict=True) if id(p) not in those]
        group["params"][:] = [p for p in group["params"] if id(p) not in those]
    for parameter in adopted:
        optimizer.state.pop(parameter, None)


def _group_of_the_head(optimizer: Optimizer, network: RewrittenModel) -> dict[str, Any]:
    """The parameter group with most of the last block that it trains."""
    for block in reversed(network.block_runners):
        own = {id(p) for p in block.parameters(network).values()}
        sizes = [sum(p.numel() for p in group["params"] if id(p) in own) for group in optimizer.param_groups]
        if any(sizes):
            return optimizer.param_groups[sizes.index(max(sizes))]
    return optimizer.param_groups[-1]
