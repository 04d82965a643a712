"""What is told of a checkpoint that does not fit the rule, or not wholly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from ..errors import LightningFwdError
from ..graph.constants import COUNTER


def require_inserted(wanted: Iterable[str], inserted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of this rule that lacks one of the tensors that it inserted, by their keys."""
    if lacking := [key for key in wanted if key not in inserted]:
        raise LightningFwdError(
            f"the checkpoint lacks {', '.join(lacking[:3])}{', ...' if lacking[3:] else ''} of what its rule inserted",
            "it is damaged, or was written by another version: training would go on with what was drawn anew",
            "take another checkpoint, or start a new fit from its weights",
        )


def warn_of_dropped(saved: Mapping[str, Any], method: Any) -> None:
    """Tell that what another rule, or another setting, inserted is not taken over."""
    if dropped := [key for key in saved.get("inserted", {}) if not key.endswith(COUNTER)]:
        rank_zero_warn(
            f"the checkpoint holds {len(dropped)} tensors that its rule inserted "
            f"({', '.join(dropped[:3])}{', ...' if dropped[3:] else ''}); "
            f"they are dropped and start anew: it was written by {saved['method']}, this is {method!r}. "
            "The network's own weights are loaded. To keep what was inserted, use the settings of the checkpoint."
        )


def refuse_optimizer_state(checkpoint: Mapping[str, Any], method: Any, error: ValueError) -> NoReturn:
    """The optimizer's state is of other parameters."""
    writer = checkpoint.get("lightning_fwd", {}).get("method", "plain training")
    raise LightningFwdError(
        f"the checkpoint's optimizer state does not fit: {error}",
        f"it was written by {writer}, and each rule has parameters of its own (this is {method!r})",
        "resume with the same rule, or start a new fit from the checkpoint's weights",
    ) from error
