"""A labelled data set in memory: what the lookup returns and what the data modules cut views from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lightning_fwd.data.audio import mfcc_shape
from lightning_fwd.data.npz import JpegImages
from lightning_fwd.data.subsets import stratified_subset

KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train and test samples with their labels.

    Attributes:
        title: what tables and plots call it.
        modality: "image" (pixels: uint8, or (C, H, W) floats all in 0..1), "signal" (other numbers, in their physical unit) or "audio"
            (recordings at 16 kHz, which batches show as MFCC).
        x_train, x_test: images (N, C, H, W), signals (N, C, T) or, for spectrograms, (N, C, H, W), recordings (N, T) int16. CIFAR-10 (JPEG)
            decodes on indexing.
        y_train, y_test: (N,) int64 in 0..len(classes)-1.
        classes: the names of the classes.
        groups_train: (N,) the recording a sample was cut from, where samples overlap; validation keeps them whole.
    """

    title: str
    modality: Literal["image", "signal", "audio"]
    x_train: np.ndarray | JpegImages
    y_train: np.ndarray
    x_test: np.ndarray | JpegImages
    y_test: np.ndarray
    classes: tuple[str, ...]
    groups_train: np.ndarray | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a sample in batches: (C, H, W), or (C, T)."""
        if self.modality == "audio":
            return mfcc_shape(self.x_train.shape[1])
        return tuple(self.x_train.shape[1:])

    def limited(self, count: int, seed: int = 0) -> Dataset:
        """At most `count` samples of either part, class shares kept; of JPEG images no others are decoded."""
        train = stratified_subset(self.y_train, min(count, len(self.y_train)), seed)
        test = stratified_subset(self.y_test, min(count, len(self.y_test)), seed)
        return replace(
            self, x_train=self.x_train[train], y_train=self.y_train[train], x_test=self.x_test[test],
            y_test=self.y_test[test], groups_train=None if self.groups_train is None else self.groups_train[train],
        )  # fmt: skip


def dataset_from_arrays(arrays: dict, title: str, classes: tuple[str, ...] | None, source: str) -> Dataset:
    """Check raw arrays and lay them out.

    Args:
        arrays: x_train, y_train, x_test, y_test. x is uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); numbers in the same
            four-dimensional layouts, images if all lie in 0..1, else signals (spectrograms); or numbers (N, C, T) for
            signals. y is (N,) or (N, 1), whole numbers from 0.
        title: what tables call it.
        classes: class names; "0", "1", ... when None.
        source: the file, for errors.

    Raises:
        ValueError: a shape, type, range or length that does not fit, naming the file and the array.
    """
    y_train, y_test = (_labels(arrays[key], f"{source}: {key}") for key in ("y_train", "y_test"))
    x_train, x_test = (_samples(arrays[key], f"{source}: {key}") for key in ("x_train", "x_test"))
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y):
            raise ValueError(f"{source}: x_{part} has {len(x)} samples, y_{part} has {len(y)}")
        if not len(y):
            raise ValueError(f"{source}: x_{part} is empty")
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        found = f"{x_train.shape[1:]} {x_train.dtype} and {x_test.shape[1:]} {x_test.dtype}"
        raise ValueError(f"{source}: the samples of x_train and x_test differ: {found}")
    highest = int(max(y_train.max(), y_test.max()))
    named, classes = bool(classes), classes or tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes):
        raise ValueError(f"{source}: label {highest}, but there are only {len(classes)} classes, counted from 0")
    unseen = np.setdiff1d(y_test, y_train)
    if len(unseen):
        raise ValueError(f"{source}: y_test holds the labels {unseen.tolist()}, which y_train never shows")
    if not named and len(missing := np.setdiff1d(np.arange(highest + 1), y_train)):
        shown = f"{', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}"
        mend = "subtract 1 from the labels" if missing.tolist() == [0] else "number the classes without gaps"
        raise ValueError(
            f"{source}: y_train goes up to {highest} and never shows {shown}: that would be {highest + 1} classes, counted from 0; {mend}, "
            "or name them all in an array `classes` if these are meant to have no samples"
        )
    return Dataset(title, _modality(x_train, x_test), x_train, y_train, x_test, y_test, classes)


def _labels(y: np.ndarray, where: str) -> np.ndarray:
    if y.dtype.kind not in "iu" or y.size != len(y):
        raise ValueError(f"{where} is {y.dtype} {y.shape}, expected whole numbers (N,)")
    y = y.reshape(-1).astype(np.int64)
    if y.size and (y.min() < 0 or y.max() > 1_000_000):
        raise ValueError(f"{where} spans {y.min()}..{y.max()}, expected class numbers from 0")
    return y


def _samples(x: np.ndarray | JpegImages, where: str) -> np.ndarray | JpegImages:
    if isinstance(x, JpegImages):
        return x
    if x.dtype.kind not in "iuf" or 0 in x.shape[1:]:
        raise ValueError(f"{where} is {x.dtype} {x.shape}, expected numbers, without empty axes")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{where} holds NaN or infinity")
    x.flags.writeable = False  # shared by everyone who looks the data set up
    if x.ndim == 3:
        return x[:, None] if x.dtype == np.uint8 else x
    if x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first and last:
            raise ValueError(f"{where} is {x.shape}: channels first or last? Either axis could hold them")
        return np.moveaxis(x, -1, 1) if last else x
    expected = "(N, H, W), (N, H, W, C), (N, C, H, W) or signals (N, C, T)"
    raise ValueError(f"{where} has shape {x.shape}, expected {expected}")


def _modality(x_train: np.ndarray | JpegImages, x_test: np.ndarray | JpegImages) -> Literal["image", "signal"]:
    if x_train.dtype == np.uint8:
        return "image"
    pixels = x_train.ndim == 4 and all(x.min() >= 0 and x.max() <= 1 for x in (x_train, x_test))
    return "image" if pixels else "signal"
