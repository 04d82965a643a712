"""From what a data set stores to what the network reads: floats, drift, normalisation or MFCC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_fwd.data.audio import STEP, ZERO, converted, mfcc, mfcc_macs
from lightning_fwd.data.dataset import Dataset
from lightning_fwd.data.drift import Drift, DriftChain
from lightning_fwd.data.integer_audio import integer_mfcc_macs, mfcc_steps
from lightning_fwd.data.subsets import stratified_subset

CHUNK = 256  # samples drifted at a time: the temporaries of a drift stay near the cache
STATISTICS_SAMPLES = 5000

Normalize = Literal["standard", "byte"]
Arithmetic = Literal["float", "integer"]


@dataclass(frozen=True)
class InputForm:
    """How a sensor's values become the network's: as ``stored`` (``"uint8"`` is divided by 255), times ``factor``, less ``mean``, over
    ``std``: one of these per channel, or none. ``recording``: that many samples (``"int16"``) of which the MFCC are the input, or 0;
    ``integers``: computed without floats."""

    stored: Literal["uint8", "int16", "float"]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    factor: float = 1.0
    recording: int = 0
    integers: bool = False

    @property
    def macs(self) -> int:
        """Of one input."""
        if not self.recording:
            return 0
        return integer_mfcc_macs(self.recording) if self.integers else mfcc_macs(self.recording)


class Inputs:
    """What happens to samples on their way into the network, by the statistics of the source.

    Args:
        source: the data before drift.
        normalize: of images; None leaves pixels in 0..1. int16, mfcc: of recordings. See `DriftDataModule`.

    Raises:
        ValueError: a normalisation that does not fit the data.
    """

    def __init__(self, source: Dataset, normalize: Normalize | None, int16: bool = False, mfcc: Arithmetic = "float") -> None:
        if normalize is not None and source.modality == "signal":
            raise ValueError(f"normalize={normalize!r} is for images; signals are always standardised: leave it out")
        if normalize is not None and source.modality == "audio":
            raise ValueError(f"normalize={normalize!r} is for images; of recordings the MFCC are what the network reads: leave it out")
        for name, stated in (("int16", int16), ("mfcc", mfcc != "float")):
            if stated and source.modality != "audio":
                raise ValueError(f"{name} is for recordings; {source.title} has none: leave it out")
        self._source, self._normalize, self._int16, self._integers = source, normalize, int16, mfcc == "integer"
        self._statistics: tuple[Tensor, Tensor] | None = None

    def of(self, domain: Dataset, part: Literal["train", "test"], index: np.ndarray, drift: Drift | DriftChain | None) -> Tensor:
        """Pixels to 0..1, signals to standard deviations or recordings to -1..1, then drift, then normalisation or MFCC.

        Args:
            domain: source or target.
            index: (N,) of the samples in that part.

        Returns:
            x float32 (N, ...).
        """
        return self._made(domain, part, index, drift, self._after_drift(), domain.input_shape)

    def recorded(self, domain: Dataset, part: Literal["train", "test"], index: np.ndarray, drift: Drift | DriftChain | None) -> Tensor:
        """Recordings after drift as a converter gives them, (N, T) int16; arguments as of :meth:`of`.

        Raises:
            ValueError: the data are no recordings.
        """
        if domain.modality != "audio":
            raise ValueError(f"{domain.title} has no recordings")
        return _as_int16(self._made(domain, part, index, drift, converted, domain.x_train.shape[1:]))

    def _made(
        self,
        domain: Dataset,
        part: Literal["train", "test"],
        index: np.ndarray,
        drift: Drift | DriftChain | None,
        after: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
    ) -> Tensor:
        stored = domain.x_test if part == "test" else domain.x_train
        offset = len(domain.y_train) if part == "test" else 0  # test samples draw other noise than training samples
        others = to_float(domain.x_train) if drift is not None and domain.modality == "audio" else None
        x = torch.empty(len(index), *shape)
        for start in range(0, len(index), CHUNK):
            some = index[start : start + CHUNK]
            chunk = to_float(stored[some])
            if domain.modality == "signal":
                chunk = self._standardise(chunk)
            if drift is not None:
                chunk = drift(chunk, torch.from_numpy(some + offset), signal=domain.modality == "signal", others=others)
            x[start : start + CHUNK] = after(chunk)
        return x

    def form(self) -> InputForm:
        """The same for the C that does it on the device."""
        if self._source.modality == "audio":
            return InputForm("int16", recording=self._source.x_train.shape[1], integers=self._integers)
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        if self._source.modality == "signal" or self._normalize == "standard":
            mean, std = (tuple(t.flatten().tolist()) for t in self._mean_and_std())
        stored = "uint8" if self._source.x_train.dtype == np.uint8 else "float"
        return InputForm(stored, mean, std, 255.0 if self._normalize == "byte" else 1.0)

    def _after_drift(self) -> Callable[[Tensor], Tensor]:
        if self._source.modality == "audio":
            if self._integers:
                return lambda x: (mfcc_steps(_as_int16(converted(x))) - ZERO).float() * STEP
            return (lambda x: mfcc(converted(x))) if self._int16 else mfcc
        return {None: lambda x: x, "byte": lambda x: x * 255, "standard": self._standardise}[self._normalize]

    def _standardise(self, x: Tensor) -> Tensor:
        mean, std = self._mean_and_std()
        return (x - mean) / std

    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Of each channel, over the source; computed on first use."""
        if self._statistics is None:
            source = self._source
            few = stratified_subset(source.y_train, min(STATISTICS_SAMPLES, len(source.y_train)), seed=0)
            sample = to_float(source.x_train[few]).transpose(0, 1).flatten(1)  # (C, everything)
            shape = (-1, *[1] * (len(source.input_shape) - 1))
            std, mean = torch.std_mean(sample.double(), dim=1)
            std = torch.where(std > 0, std, 1.0)  # a channel that never changes is only centred
            self._statistics = mean.float().view(shape), std.float().view(shape)
        return self._statistics


def _as_int16(x: Tensor) -> Tensor:
    """What a converter gives, -1..1 in steps of 2**-15, as it stores it."""
    return (x * 32768).to(torch.int16)


def to_float(x: np.ndarray) -> Tensor:
    """Bytes to 0..1, 16-bit recordings (N, T) to -1..1, all else as it is."""
    tensor = torch.from_numpy(x.astype(np.float32, order="C"))
    return tensor.div_(255) if x.dtype == np.uint8 else tensor.div_(32768) if x.dtype == np.int16 and x.ndim == 2 else tensor
