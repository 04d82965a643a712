"""Real drift: activity recognition when the sensor moves from a phone to a watch, or from one wearer to another.

Data: Matey-Sanz et al., Data in Brief 2023 (109809), inertial measurements of smartphones and smartwatches, cut into
windows of 64 readings at a stride of 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fwd.data.dataset import Dataset
from lightning_fwd.data.npz import read_npz

HAR_DRIFTS = ("device", "subject", "both")
HAR_SOURCES = {"device": "all recordings", "subject": "first recordings", "both": "first recordings"}
"""What is trained on at home, for each real drift: those with the same have one source, see `har_domains`."""
PHONE, WATCH = 0, 1
LAST_SOURCE_SUBJECT = 15
LAST_TRAIN_EXECUTION = 6


def har_domains(path: Path) -> dict[str, tuple[Dataset, Dataset]]:
    """Source and target for each real drift. Windows are (N, 6, 64) float32: acceleration in m/s^2, turn rate in rad/s.

    - "device": phone to watch. Train on subjects up to 15, test on the others, in source and target alike.
    - "subject": phone throughout. Source are subjects up to 15, target the others; each subject's first six recordings
      train, the later ones test.
    - "both": phone of subjects up to 15 to watch of the others, recordings as in "subject".

    Windows of one recording overlap by half, so no recording is ever on both sides of a split.

    Raises:
        ValueError: a damaged file.
    """
    arrays = read_npz(path, ("x", "y", "subject", "device", "execution", "classes"))
    x, y, device, subject, execution = (arrays[key] for key in ("x", "y", "device", "subject", "execution"))
    classes = tuple(map(str, arrays["classes"]))
    _check(path, arrays, classes)
    x, y = x.astype(np.float32), y.astype(np.int64)
    recording = (subject.astype(np.int64) * 256 + execution) * 2 + device

    known, early = subject <= LAST_SOURCE_SUBJECT, execution <= LAST_TRAIN_EXECUTION

    def domain(title: str, train: np.ndarray, test: np.ndarray) -> Dataset:
        return Dataset(title, "signal", x[train], y[train], x[test], y[test], classes, recording[train])

    def by_device(which: int, name: str) -> Dataset:
        on = device == which
        return domain(f"HAR ({name})", on & known, on & ~known)

    def by_subject(on: np.ndarray, name: str) -> Dataset:
        return domain(f"HAR ({name})", on & early, on & ~early)

    phone, watch = device == PHONE, device == WATCH
    source = by_subject(phone & known, f"phone, subjects to {LAST_SOURCE_SUBJECT}")
    others = f"subjects from {LAST_SOURCE_SUBJECT + 1}"
    return {
        "device": (by_device(PHONE, "phone"), by_device(WATCH, "watch")),
        "subject": (source, by_subject(phone & ~known, f"phone, {others}")),
        "both": (source, by_subject(watch & ~known, f"watch, {others}")),
    }


def real_and_simulated(drift: Any) -> tuple[str | None, Any]:
    """A drift divided: the real one it begins with, or None, and what comes on top, or None.

    Args:
        drift: "subject", "subject+noise=0.5", a list that begins with a real one, or a simulated drift in any form.

    Raises:
        ValueError: a real drift that is not first, comes twice, has a severity, or is written as a mapping; nothing behind a "+".
    """
    parts = _parts(drift)
    real = next((part for part in parts[:1] if isinstance(part, str) and part in HAR_DRIFTS), None)
    for part in parts[real is not None :]:
        kind = part.get("kind") if isinstance(part, Mapping) else part.partition("=")[0].strip() if isinstance(part, str) else None
        if kind in HAR_DRIFTS or (real is not None and part == ""):
            said = f"{kind!r} is a real drift of 'har'" if kind in HAR_DRIFTS else "there is nothing beside one of its +"
            raise ValueError(
                f"drift {drift!r}: {said}; a real drift is one word that comes first, once and without a severity, simulated ones behind: "
                f"write {kind or real!r} or '{kind or real}+noise=0.5'"
            )
    return (None, drift) if real is None else (real, parts[1:] or None)


def _parts(drift: Any) -> list[Any]:
    """What is chained by "+" or in lists, one by one."""
    if isinstance(drift, str):
        return [part.strip() for part in drift.split("+")]
    return [part for each in drift for part in _parts(each)] if isinstance(drift, Sequence) else [drift]


def _check(path: Path, arrays: dict[str, np.ndarray], classes: tuple[str, ...]) -> None:
    x = arrays["x"]
    if x.ndim != 3 or x.dtype.kind != "f" or not np.isfinite(x).all():
        raise ValueError(f"{path}: x is {x.dtype} {x.shape}, expected finite floats (N, C, T)")
    for key in ("y", "subject", "device", "execution"):
        column = arrays[key]
        if column.shape != (len(x),) or column.dtype.kind not in "iu":
            raise ValueError(f"{path}: {key} is {column.dtype} {column.shape}, expected whole numbers ({len(x)},)")
    if not len(x) or not set(np.unique(arrays["device"])) <= {PHONE, WATCH}:
        raise ValueError(f"{path}: empty, or a device other than {PHONE} (phone) and {WATCH} (watch)")
    if arrays["y"].max() >= len(classes):
        raise ValueError(f"{path}: label {arrays['y'].max()}, but there are only {len(classes)} classes")
