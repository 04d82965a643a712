"""The samples that MLPerf Tiny evaluates on, as data sets: one half to adapt with, the other to test on.

The networks' own training data are larger and elsewhere (Speech Commands v2, COCO); these are the files of the benchmark's runner, so what
is shown as the source is data that the networks have not been trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_fwd.data.audio import FRAME, SAMPLE_RATE
from lightning_fwd.data.dataset import Dataset
from lightning_fwd.data.npz import read_npz
from lightning_fwd.data.subsets import stratified_subset


def speech_commands(path: Path, title: str) -> Dataset:
    """One-second utterances (N, 16000) int16 of twelve classes, in the order of DS-CNN's outputs.

    Raises:
        ValueError: a damaged file.
    """
    audio, y, classes = _read(path, "audio")
    if audio.ndim != 2 or audio.dtype != np.int16 or not FRAME <= audio.shape[1] <= 60 * SAMPLE_RATE:
        raise ValueError(f"{path}: audio is {audio.dtype} {audio.shape}, expected int16 (N, T) at 16 kHz")
    return _halves(title, "audio", audio, y, classes)


def visual_wake_words(path: Path, title: str) -> Dataset:
    """Images (N, 3, 96, 96) uint8 without and with a person.

    Raises:
        ValueError: a damaged file.
    """
    x, y, classes = _read(path, "x")
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[3] != 3:
        raise ValueError(f"{path}: x is {x.dtype} {x.shape}, expected uint8 (N, H, W, 3)")
    return _halves(title, "image", np.moveaxis(x, -1, 1), y, classes)


def _read(path: Path, key: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    arrays = read_npz(path, (key, "y", "classes"))
    y, classes = arrays["y"], tuple(map(str, arrays["classes"]))
    if y.shape != arrays[key].shape[:1] or y.dtype.kind not in "iu" or len(y) < 2 or y.min() < 0 or y.max() >= len(classes):
        raise ValueError(f"{path}: y is {y.dtype} {y.shape}, expected a number of the {len(classes)} classes for each sample")
    return arrays[key], y.astype(np.int64), classes


def _halves(title: str, modality: str, x: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    """The same halves always, with the shares of the classes."""
    first = stratified_subset(y, len(y) // 2, seed=0)
    second = np.setdiff1d(np.arange(len(y)), first)
    return Dataset(title, modality, x[first], y[first], x[second], y[second], classes)
