"""What a data module's arguments may be."""

from __future__ import annotations

from numbers import Integral, Real
from os import PathLike

import numpy as np

_WORDS, _WHOLE = ("dataset", "target_dataset", "root"), ("drift_seed", "batch_size", "train_samples", "test_samples", "seed", "num_workers")
_SWITCHES = ("flatten", "int16")


def require_kinds(arguments: dict[str, object]) -> None:
    """Refuse what a recipe may hold in the place of a name or a number: nothing, a list, a mapping."""
    optional = ("target_dataset", "root", "train_samples", "test_samples")
    for name, kinds, wanted in ((_WORDS, (str, PathLike), "a name or a path"), (_WHOLE, (Integral,), "a whole number"),
                                (("val_fraction",), (Real,), "a number"), (_SWITCHES, (bool, np.bool_), "true or false")):  # fmt: skip
        for each in name:
            value = arguments[each]
            fits = isinstance(value, kinds) and (isinstance(value, bool | np.bool_) is (each in _SWITCHES))
            require(fits or (value is None and each in optional), each, value, wanted)
    shares = arguments["class_shares"]
    numbers = isinstance(shares, list | tuple) and all(isinstance(s, Real) and not isinstance(s, bool) for s in shares)
    require(shares is None or numbers, "class_shares", shares, "a list of numbers, one per class")


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise ValueError with name and value if not ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
