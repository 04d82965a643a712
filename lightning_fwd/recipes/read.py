"""Read a recipe's YAML into dataclasses, and say how two recipes differ."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import LightningFwdError
from ..plain_files import read_text
from ..strict_yaml import load_yaml, read_yaml


def with_data_folder(text: str, path: Path) -> str:
    """Fill in ``${LIGHTNING_FWD_DATA}``, the one variable that a scenario may use (weights that come as files)."""
    variable = "${LIGHTNING_FWD_DATA}"
    if variable in text and "LIGHTNING_FWD_DATA" not in os.environ:
        raise LightningFwdError(
            f"{path} needs the environment variable LIGHTNING_FWD_DATA",
            "it reads files from that folder",
            "export LIGHTNING_FWD_DATA=FOLDER",
        )
    return text.replace(variable, os.environ.get("LIGHTNING_FWD_DATA", ""))


def read_recipe(path: str | Path, what: str, mend: str) -> Any:
    """The content of a recipe (YAML), the folder of the data filled in.

    Raises:
        LightningFwdError: as :func:`lightning_fwd.strict_yaml.read_yaml`, and :func:`with_data_folder`.
    """
    return read_yaml(path, what, mend, prepare=lambda text: with_data_folder(text, Path(path)))


def from_mapping(cls: type, values: Any, where: str) -> Any:
    """A dataclass from a recipe's mapping.

    Raises:
        LightningFwdError: no mapping, or a key is unknown or lacking; ``where`` says of what.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    if not isinstance(values, dict):
        raise LightningFwdError(f"{where}: expected a mapping, got {values!r}", "", f"known keys: {', '.join(known)}")
    unknown = set(values) - set(known)
    if unknown:
        raise LightningFwdError(f"{where}: unknown {', '.join(sorted(map(str, unknown)))}", "", f"known keys: {', '.join(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise LightningFwdError(f"{where}: {error}", "", f"known keys: {', '.join(known)}") from error


def differences(there: str, here: str, free: Sequence[str]) -> list[str]:
    """Which settings of two recipes (YAML) differ, with both values. A key that one of them lacks is None: it is older than the setting.

    Args:
        free: keys that may differ, because results of both belong to one table.
    """
    old, new = ({k: v for k, v in _flat(load_yaml(text)) if k.partition(".")[0] not in free} for text in (there, here))
    return [f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in {**old, **new} if old.get(key) != new.get(key)]


def require_same(file: Path, here: str, free: Sequence[str], another: str) -> None:
    """Refuse to go on in a folder whose recipe differs from the present one.

    Args:
        file: the recipe (YAML) that the folder keeps. here: the present one. free: keys that may differ. another: what the folder holds
            else.

    Raises:
        LightningFwdError: they differ, or the folder's is missing or damaged.
    """
    mend = "choose another --out, or delete the folder"
    there = read_text(file, "the recipe that the results in this folder belong to,", mend)
    try:
        changes = differences(there, here, free)
    except (yaml.YAMLError, AttributeError) as error:
        raise LightningFwdError(f"{file} is damaged", f"it is no recipe: {error}", mend) from error
    if changes:
        raise LightningFwdError(f"{file.parent} holds results of {another}", "; ".join(changes), mend)


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
