"""Sounds of toy cars as log-mel spectrograms, for a detector that has only heard normal ones (ToyADMOS, as MLPerf Tiny evaluates it)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lightning_fwd.data.lookup import DATA_FOLDER
from lightning_fwd.data.npz import read_npz

FILE = "toyadmos_car_mlperf.npz"
WINDOW = 5  #: frames that the detector reads at once


@dataclass(frozen=True)
class MachineSounds:
    """Clips of several machines of one kind.

    Attributes:
        logmel: ``(N, frames, bands)`` float32, dB. anomalous: ``(N,)`` bool. machine: ``(N,)`` which one it is.
    """

    logmel: Tensor
    anomalous: Tensor
    machine: Tensor

    def windows(self) -> Tensor:
        """``(N, frames - 4, 5 x bands)``: five frames one after the other, as the autoencoder reads them."""
        frames = self.logmel.unfold(1, WINDOW, 1)  # (N, W, bands, 5)
        return frames.transpose(2, 3).flatten(2)

    def some(self, index: Tensor) -> MachineSounds:
        return MachineSounds(self.logmel[index], self.anomalous[index], self.machine[index])

    def drifted(self, kind: str, severity: float, seed: int = 0) -> MachineSounds:
        """Through another microphone, at another place: see :data:`SOUND_DRIFTS`.

        Raises:
            ValueError: an unknown kind, or a severity out of its range.
        """
        if kind not in SOUND_DRIFTS:
            raise ValueError(f"unknown drift {kind!r} of machine sounds; known are: {', '.join(SOUND_DRIFTS)}")
        change, _, low, high = SOUND_DRIFTS[kind]
        if not low <= severity <= high:
            raise ValueError(f"drift {kind!r}: severity {severity} is outside {low}..{high}")
        return replace(self, logmel=change(self.logmel, severity, torch.Generator().manual_seed(seed)))


def load_machine_sounds(root: str | Path | None = None) -> MachineSounds:
    """The clips in the folder ``root``, by default the one that LIGHTNING_FWD_DATA names.

    Raises:
        FileNotFoundError: no such file. ValueError: a damaged one.
    """
    folder = root or os.environ.get(DATA_FOLDER)
    if folder is None or not (path := Path(folder) / FILE).is_file():
        raise FileNotFoundError(
            f"no {FILE} in {folder or f'the folder that {DATA_FOLDER} names (it is not set)'}; there is no download for it"
        )
    arrays = read_npz(path, ("logmel", "anomaly", "machine"))
    x, anomaly, machine = (torch.from_numpy(arrays[key]) for key in ("logmel", "anomaly", "machine"))
    if x.ndim != 3 or not x.is_floating_point() or x.shape[1] < WINDOW or not x.isfinite().all():
        raise ValueError(f"{path}: logmel is {x.dtype} {tuple(x.shape)}, expected finite numbers (N, frames, bands)")
    if anomaly.shape != x.shape[:1] or machine.shape != x.shape[:1] or not bool(((anomaly == 0) | (anomaly == 1)).all()):
        raise ValueError(f"{path}: anomaly {tuple(anomaly.shape)} and machine {tuple(machine.shape)} do not fit {len(x)} clips")
    return MachineSounds(x.float(), anomaly.bool(), machine.long())


def _gain(x: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    return x + decibels


def _tilt(x: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    return x - decibels * torch.linspace(0, 1, x.shape[2])


def _response(x: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """A smooth random curve over the bands: 8 points, joined by lines."""
    points = decibels * torch.randn(1, 1, 8, generator=generator)
    return x + torch.nn.functional.interpolate(points, x.shape[2], mode="linear", align_corners=True)[0]


def _floor(x: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """Powers add: noise whose power in each band lies so far above the median of that band, with a frame's own fluctuation."""
    level = x.flatten(0, 1).median(0).values + decibels + 2.0 * torch.randn(x.shape, generator=generator)
    return 10 * torch.log10(10 ** (x / 10) + 10 ** (level / 10))


def _reverberation(x: Tensor, frames: float, generator: torch.Generator) -> Tensor:
    """Echoes add to the power of later frames, falling to 1/e in so many."""
    power, keep = 10 ** (x / 10), float(torch.exp(torch.tensor(-1 / frames))) if frames > 0 else 0.0
    tail, heard = torch.zeros_like(power[:, 0]), []
    for frame in power.unbind(1):
        tail = keep * tail + frame
        heard.append(tail)
    return 10 * torch.log10(torch.stack(heard, 1))


#: Kind to what it does, what the severity is, and its lowest and highest; 0 changes nothing (of ``floor``: -inf).
SOUND_DRIFTS: dict[str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], str, float, float]] = {
    "gain": (_gain, "dB on all bands: another distance", -60, 60),
    "tilt": (_tilt, "dB that the highest band loses, the others in proportion: a dull microphone", -60, 60),
    "response": (_response, "dB, deviation of a smooth random curve over the bands: another microphone", 0, 30),
    "floor": (_floor, "dB above the median of each band: noise of the hall", -100, 40),
    "reverberation": (_reverberation, "frames in which echoes fall to 1/e: another room", 0, 100),
}
