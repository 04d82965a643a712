"""What to search: the recipe of ``lightning-fwd search``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import LightningFwdError
from ..recipes import Training, from_mapping, read_recipe, require_keywords
from ..settings import check_settings

RECORDED = "recorded"  #: in the place of a drift: the target data set as it is


@dataclass
class SchemeSearch:
    """What to search.

    Args:
        data: arguments of :class:`lightning_fwd.data.DriftDataModule` (dataset, normalize, ...): the source.
        drifts: simulated ones, each with its severity (``"noise=0.08"``); contributions are averaged over them. Where the data have a
            ``target_dataset`` none are needed: what was recorded there is the target. Any that are given come on top of it.
        model, model_args: for :func:`lightning_fwd.models.build`.
        weights: file of trained weights: a checkpoint of Lightning, a saved state_dict, .safetensors, or Keras .npz or .h5;
            ``${LIGHTNING_FWD_DATA}`` may stand in it.
        pretrain: backpropagation on the source first, with the keys of :class:`lightning_fwd.recipes.Training`; None takes the model as
            ``weights``, or its own class, give it. A model that does not know the source is refused.
        budget: see :func:`parse_budget`. width: of the arithmetic that the ledger prices. momentum: of SGD, whose state takes RAM.
        fractions: of input channels that a layer may train.
        samples, held_out: source samples that a candidate is trained on and (so many at most) judged by.
        epochs, lr, batch_size: of these trainings.
        after_statistics: recompute the batch-norm statistics under the drift first, as the adaptation on the device will.
        finalists: how many sets, the best by the sum of their parts, are trained as a whole, with as many random ones that use up the
            budget; from the best sets measured others are bred, so many a round, until two rounds have found no better one.
        seed: of data and evolution.
    """

    data: dict[str, Any]
    model: str
    drifts: list[str] = field(default_factory=list)
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    pretrain: Training | None = None
    budget: str | dict[str, Any] = field(default_factory=lambda: {"ram": "256KB"})
    width: Literal["fp32", "int8", "mixed"] = "int8"
    momentum: float = 0.9
    fractions: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0])
    samples: int = 500
    held_out: int = 1000
    epochs: int = 2
    lr: float = 1e-3
    batch_size: int = 16
    after_statistics: bool = True
    finalists: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, not_negative=("momentum",))
        for name in ("data", "model_args"):
            require_keywords(getattr(self, name), name)
        if isinstance(self.pretrain, dict):
            self.pretrain = from_mapping(Training, self.pretrain, "pretrain")
        if not self.drifts and isinstance(self.drifts, list) and self.data.get("target_dataset"):
            self.drifts = [RECORDED]
        wrong = [name for name in ("samples", "held_out", "epochs", "batch_size", "finalists", "lr") if not getattr(self, name) > 0]
        wrong += [] if isinstance(self.drifts, list) and self.drifts else ["drifts"]
        wrong += ["data"] if self.data.get("val_fraction", 0.1) == 0 else []  # judged by that part
        wrong += [] if self.fractions and all(0 < f <= 1 for f in self.fractions) else ["fractions"]
        if wrong:
            raise LightningFwdError(
                f"search: {', '.join(f'{name}={getattr(self, name)!r}' for name in wrong)}",
                "nothing could be measured",
                "counts and lr above 0, drifts a list such as [noise=0.08] (or target_dataset in the data), "
                "fractions above 0 and up to 1, a validation part in the data",
            )


def load_search(file: str | Path, overrides: Mapping[str, Any] | None = None) -> SchemeSearch:
    """Read a search from YAML.

    Raises:
        LightningFwdError: the file cannot be read, or holds an unknown or lacks a needed key.
    """
    known = ", ".join(f.name for f in dataclasses.fields(SchemeSearch))
    content = read_recipe(file, "the search", f"give a YAML file such as recipes/search_resnet8.yaml; keys: {known}")
    return from_mapping(SchemeSearch, {**content, **(overrides or {})} if isinstance(content, dict) else content, str(file))
