"""One line of a comparison: how the model adapts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..adaptation import Stage, as_stages
from ..errors import LightningFwdError
from ..methods import LearningMethod, get_method
from ..recipes import require_keywords
from ..settings import check_settings


@dataclass
class Row:
    """One line of the table: how the model adapts.

    Args:
        name: what the table calls it.
        method: registered name of the rule; None leaves the model as it is.
        settings: the rule's arguments.
        lr, epochs: in place of the scenario's.
        after_statistics: recompute the batch-norm statistics on the same samples first; short for a first stage "statistics" that nothing
            guards.
        stages: in place of method, settings, lr and epochs: a guarded adaptation, each stage as :class:`lightning_fwd.adaptation.Stage`
            takes it.
        held_back: of stages, the share of the labelled samples that judge them, see :func:`lightning_fwd.adapt`; 0: nothing is rolled back.
        freeze: module paths whose parameters stay as they are, e.g. a stem that reads raw pixels and bears smaller steps than the rest.
        calibrate: fit the rule's inserted heads to the source first, in closed form, as one would before the device leaves the house.
        control: whether it is a control (drawn grey).
    """

    name: str
    method: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None
    epochs: int | None = None
    after_statistics: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)
    held_back: float = 1 / 3
    freeze: list[str] = field(default_factory=list)
    calibrate: bool = False
    control: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.freeze, list) or not all(isinstance(path, str) for path in self.freeze):
            raise LightningFwdError(
                f"row {self.name!r}: freeze is {self.freeze!r}", "expected paths of modules", "write e.g. freeze: [stem]"
            )
        check_settings(self, LightningFwdError, ("lr", "epochs"))
        own = [k for k in ("method", "settings", "lr", "epochs", "after_statistics", "freeze", "calibrate") if getattr(self, k)]
        if self.stages and own:
            raise LightningFwdError(
                f"row {self.name!r}: {', '.join(own)} beside stages",
                "each stage says its own rule, rate and what it freezes",
                "write them in the stages; recomputed statistics are a stage: {method: statistics}",
            )
        self._check_held_back()
        require_keywords(self.settings, f"row {self.name!r}: settings")

    def _check_held_back(self) -> None:
        stages, what = self.adaptation(), f"row {self.name!r}: held_back={self.held_back:g}"
        if not 0 <= self.held_back < 1:
            raise LightningFwdError(what, "it is a share of the labelled samples", "use 0 <= held_back < 1")
        if self.held_back == 0 and (unsaid := [stage.name for stage in stages if stage.is_open]):
            raise LightningFwdError(what, f"stage {unsaid[0]} leaves a choice open, and nothing judges", "give one rate and all settings")

    def adaptation(self) -> list[Stage]:
        """Its stages, built; none where it is a single rule.

        Raises:
            LightningFwdError: one of them is unknown or has settings that it cannot use.
        """
        try:
            return as_stages(self.stages) if self.stages else []
        except LightningFwdError as error:
            raise LightningFwdError(f"row {self.name!r}: {error.what}", error.why, error.mend) from error

    def build(self, seed: int | None = None) -> LearningMethod | None:
        """The learning rule, or None.

        Args:
            seed: of the rule, where it has one and the settings do not set it.

        Raises:
            LightningFwdError: unknown name or settings.
        """
        if self.method is None:
            return None
        try:
            method = get_method(self.method, **self.settings)
        except LightningFwdError as error:
            raise LightningFwdError(f"row {self.name!r}: {error.what}", error.why, error.mend) from error
        if seed is not None and "seed" not in self.settings and hasattr(method, "seed"):
            method = dataclasses.replace(method, seed=seed)
        if self.calibrate and self.after_statistics and method.batch_norm == "fold":
            raise LightningFwdError(
                f"row {self.name!r}: calibrate with after_statistics and batch_norm='fold'",
                "heads are fitted before the target's statistics are known, and a folded norm has none left to replace",
                "use batch_norm='freeze', or leave one of them out",
            )
        return method

    def frozen(self, net: nn.Module) -> nn.Module:
        """``net`` itself, what ``freeze`` names frozen.

        Raises:
            LightningFwdError: it names no module with parameters.
        """
        for path in self.freeze:
            held = dict(net.named_modules()).get(path)
            if held is None or not any(True for _ in held.parameters()):
                known = ", ".join(name for name, child in net.named_children() if any(True for _ in child.parameters()))
                raise LightningFwdError(
                    f"row {self.name!r}: freeze: {path!r} is no module with parameters", "", f"the network has: {known}"
                )
            held.requires_grad_(False)
        return net
