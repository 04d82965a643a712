"""Checkpoints: what the plain LightningModule holds, and beside it what a rule inserted."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..graph.constants import INSERTED
from .install import WHOLE

State = dict[str, Any]


def split_state(state: State) -> tuple[State, State]:
    """``(plain, inserted)``: the plain module's own keys, in their order, and the keys of inserted state.

    A LightningModule that is itself the network shows every tensor twice, by its own name and through the rewritten model. The second view
    counts: it knows what is folded or masked.
    """
    view = f"{WHOLE}."
    plain = {key: state.get(view + key, value) for key, value in state.items() if not _is_inserted(key)}
    inserted = {key: value for key, value in state.items() if _is_inserted(key.removeprefix(view))}
    return plain, inserted


def join_state(plain: State, inserted: State, module: nn.Module) -> State:
    """What ``module.load_state_dict`` takes, from the two parts."""
    twice = {f"{WHOLE}.{key}": value for key, value in plain.items()} if WHOLE in module._modules else {}
    return {**plain, **twice, **inserted}


def _is_inserted(key: str) -> bool:
    return any(part.startswith(INSERTED) for part in key.split("."))
