"""Find the input and the labels in whatever a DataLoader yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import NoInputError

_INPUT_KEYS = ("input", "inputs", "x", "image", "images", "features", "data")
_TARGET_KEYS = ("target", "targets", "label", "labels", "y")

Key = int | str | None


def input_of(batch: Any, key: Key = None) -> Tensor:
    """The input tensor ``(B, ...)`` of a batch: the tensor itself, the first of a tuple, or a dict's entry.

    Raises:
        NoInputError: the batch has no such entry, or it is not a tensor.
    """
    found = batch if isinstance(batch, Tensor) else _entry(batch, key, 0, _INPUT_KEYS)
    if not isinstance(found, Tensor):
        raise NoInputError(
            f"no input tensor in a batch of type {_describe(batch)}",
            "it is looked up as the tensor itself, the first of a tuple, or under " + ", ".join(_INPUT_KEYS),
            "tell the strategy: ForwardOnlyStrategy(method, input_key=...)",
        )
    return found


def target_of(batch: Any, key: Key = None) -> Tensor | None:
    """The labels ``(B,)`` of a batch: the second of a tuple, or a dict's entry; None where there are none."""
    found = None if isinstance(batch, Tensor) else _entry(batch, key, 1, _TARGET_KEYS)
    return found if isinstance(found, Tensor) else None


def _entry(batch: Any, key: Key, position: int, names: tuple[str, ...]) -> Any:
    if isinstance(batch, Mapping):
        for name in names if key is None else (key,):
            if name in batch:
                return batch[name]
    elif isinstance(batch, Sequence):
        index = position if key is None else key
        if isinstance(index, int) and index < len(batch):
            return batch[index]
    return None


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"dict with keys {', '.join(map(str, batch))}"
    if isinstance(batch, Sequence):
        return f"{type(batch).__name__} of {', '.join(type(item).__name__ for item in batch)}"
    return type(batch).__name__
