"""Say which part of a training step runs, so that a traced step can be priced and scheduled by phase and by layer."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

from torch.fx.traceback import annotate, has_preserved_node_meta

Phase = Literal["forward", "second_forward", "goodness", "error", "projection", "backward", "update", "normalisation"]
PHASES: tuple[str, ...] = get_args(Phase)
_NOTHING = nullcontext()  # a step of small layers enters dozens of these


def is_traced() -> bool:
    """Whether the step that runs is being traced, to be priced or shipped: then it does all that its description says, to the letter."""
    return has_preserved_node_meta()


def phase(name: Phase) -> AbstractContextManager[None]:
    """Mark the operations inside as one phase of the step; free when nothing is being traced."""
    return annotate({"phase": name}) if has_preserved_node_meta() else _NOTHING


def layer(path: str) -> AbstractContextManager[None]:
    """Mark the operations inside as belonging to one layer, by its module path."""
    return annotate({"layer": path}) if has_preserved_node_meta() else _NOTHING
