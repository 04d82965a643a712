"""The recipe of one adaptation, for ``lightning-fwd adapt``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..adaptation import Firmware, Stage, as_stages
from ..errors import LightningFwdError
from ..settings import check_settings
from .read import from_mapping, read_recipe
from .start import data_module, require_keywords
from .training import Training


@dataclass
class AdaptationRecipe:
    """A trained network, the target's samples, and the stages that adapt it.

    Args:
        data: arguments of :class:`lightning_fwd.data.DriftDataModule` (dataset, drift, ...).
        stages: a list of the arguments of :class:`lightning_fwd.adaptation.Stage`.
        model, model_args: for :func:`lightning_fwd.models.build`.
        weights: file of trained weights; ``${LIGHTNING_FWD_DATA}`` may stand in it.
        labelled: samples with labels. unlabelled: further ones without.
        held_back: share of the labelled samples that judge the stages.
        seed: of the samples, what is held back, and their order.
        device, width: for the price.
        firmware: do what the exported library does on the device; arguments of :class:`lightning_fwd.adaptation.Firmware`, ``{}`` for its
            defaults.
    """

    data: dict[str, Any]
    stages: list[dict[str, Any]]
    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    labelled: int = 100
    unlabelled: int = 0
    held_back: float = 1 / 3
    seed: int = 0
    device: str = "stm32h735"
    width: Literal["fp32", "int8", "mixed"] = "fp32"
    firmware: dict[str, Any] | None = None
    pretrain: Training | None = None  #: always None: what an adaptation starts from is trained already

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, ("labelled",), ("unlabelled", "held_back"))
        for name in ("data", "model_args", *(["firmware"] if self.firmware is not None else [])):
            require_keywords(getattr(self, name), name)
        self.built_firmware()
        if self.pretrain is not None:
            raise LightningFwdError("pretrain in the recipe of an adaptation", "it starts from trained weights", "give weights: FILE")

    def built_firmware(self) -> Firmware | None:
        """The loop on the device, checked; None: the host's own."""
        return None if self.firmware is None else from_mapping(Firmware, self.firmware, "firmware")

    def built_stages(self) -> list[Stage]:
        """The stages, checked."""
        return as_stages(self.stages)

    def data_module(self, view: Literal["source", "target"]) -> Any:
        """Source or target; the target's training part is the labelled samples and the unlabelled ones."""
        more = {"train_samples": self.labelled + self.unlabelled} if view == "target" else {}
        return data_module(self.data, _INSTEAD, view=view, seed=self.seed, **more)


#: Arguments of the data that the recipe says in another place.
_INSTEAD = {
    "train_samples": "the number of labelled samples is the key labelled, of those without labels unlabelled",
    "seed": "it is a key of the recipe, beside data",
    "view": "the recipe is about both views, source and target",
}


def load_adaptation(path: str | Path, overrides: dict[str, Any] | None = None) -> AdaptationRecipe:
    """An adaptation from a YAML file, keys checked.

    Raises:
        LightningFwdError: the file is missing, is no YAML mapping, or has unknown keys.
    """
    raw = read_recipe(path, "the recipe", "give a YAML file such as recipes/adapt_resnet8.yaml")
    return from_mapping(AdaptationRecipe, {**raw, **(overrides or {})} if isinstance(raw, dict) else raw, str(path))
