"""What an adaptation says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

AGAIN = "the last run, on all labels, is not taken"  #: begins the note of the last stage kept, where that is so


@dataclass
class StageResult:
    """What became of a stage.

    Attributes:
        name: of the stage. kept: whether its result was taken. chosen: the rate, or the settings, where there was a choice.
        before, after: what it was judged by, without and with it: cross-entropy of labelled samples, or entropy of predictions. judged_on:
            how many.
        note: why it was rolled back, that nothing guarded it, or why the last run was not taken.
        epochs: how many were run, where early stopping decides (as on the device); else 0.
    """

    name: str
    kept: bool
    chosen: str
    before: float
    after: float
    judged_on: int
    note: str = ""
    epochs: int = 0

    def __str__(self) -> str:
        before, after = (f"{loss:.3f}" if loss >= 0.1 else f"{loss:.3g}" for loss in (self.before, self.after))
        said = f"{self.name}: {'kept' if self.kept else 'rolled back'}, loss {before} -> {after} on {self.judged_on} samples"
        return said + "".join(f"; {more}" for more in (self.chosen, self.epochs and f"{self.epochs} epochs", self.note) if more)


@dataclass
class Adaptation:
    """The adapted network, in eval mode, and what was done.

    Attributes:
        network: the plain network. stages: what became of each.
        device_before, device_after: of an adaptation in integers: what the device predicts, as networks of float inputs and logits.
    """

    network: nn.Module
    stages: list[StageResult]
    device_before: nn.Module | None = None
    device_after: nn.Module | None = None

    @property
    def rolled_back(self) -> list[str]:
        """Names of the stages that would have harmed."""
        return [stage.name for stage in self.stages if not stage.kept]

    def __str__(self) -> str:
        return "\n".join(map(str, self.stages))
