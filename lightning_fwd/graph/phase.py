"""Say which part of a training step runs, so that a traced step can be priced and scheduled by phase and by layer."""

from contextlib import AbstractContextManager
from typing import Literal, get_args

from torch.fx.traceback import annotate

Phase = Literal["forward", "second_forward", "goodness", "error", "projection", "backward", "update", "normalisation"]
PHASES: tuple[str, ...] = get_args(Phase)


def phase(name: Phase) -> AbstractContextManager[None]:
    """Mark the operations inside as one phase of the step; free when nothing is being traced."""
    return annotate({"phase": name})


def layer(path: str) -> AbstractContextManager[None]:
    """Mark the operations inside as belonging to one layer, by its module path."""
    return annotate({"layer": path})
