"""What every recipe that starts from a network says of it."""

from __future__ import annotations

from typing import Any, Protocol

from .training import Training


class Recipe(Protocol):
    """A network and where its weights come from: what a comparison and a search have in common.

    Attributes:
        model, model_args: for :func:`lightning_fwd.models.build`.
        weights: file of trained weights, or None.
        pretrain: training on the source before anything else, or None.
    """

    model: str
    model_args: dict[str, Any]
    weights: str | None
    pretrain: Training | None
