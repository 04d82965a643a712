"""From a second of sound to what the keyword-spotting network reads: the front end of MLPerf Tiny, in torch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FRAME, HOP, FFT = 480, 320, 512  #: samples of a frame, between frames, of a transform
BANDS, LOW_HZ, HIGH_HZ = 40, 20.0, 4000.0
COEFFICIENTS = 10
STEP, ZERO = 0.5847029, 83  #: of the benchmark's int8 features


def mfcc_shape(samples: int) -> tuple[int, int, int]:
    """``(1, frames, coefficients)`` of a recording of so many samples."""
    return 1, (samples - FRAME) // HOP + 1, COEFFICIENTS


def mfcc(audio: Tensor) -> Tensor:
    """Mel-frequency cepstral coefficients as the benchmark's int8 program gets them, in real numbers.

    The wave is divided by its maximum; frames of 30 ms every 20 ms, periodic Hann window, magnitude spectrum, 40 HTK mel bands from 20 to
    4,000 Hz, logarithm, orthogonal DCT-II (first 10), rounded to int8. Equals the benchmark's own features to one step in 99.997 % of
    values.

    Args:
        audio: ``(B, T)`` at 16 kHz, any scale, T >= 480.

    Returns:
        ``(B, 1, frames, 10)`` float32, about -120 to 26.
    """
    audio = audio.float() / audio.amax(1, keepdim=True).float().clamp_min(1e-9)
    frames = audio.unfold(1, FRAME, HOP) * torch.hann_window(FRAME, periodic=True)
    bands, cosines = tables()
    coefficients = torch.log(torch.fft.rfft(frames, FFT).abs() @ bands + 1e-6) @ cosines
    steps = (coefficients / STEP + ZERO).round().clamp(-128, 127)
    return ((steps - ZERO) * STEP)[:, None]


def converted(audio: Tensor) -> Tensor:
    """Recordings ``(B, T)`` as a converter of 16 bits gives them, -1..1; those that are louder are turned down."""
    audio = audio / audio.abs().amax(1, keepdim=True).clamp_min(1.0)
    return (audio * 32768).round().clamp(-32768, 32767) / 32768


def mfcc_macs(samples: int) -> int:
    """Multiplications of a recording of so many samples, as the C of the exporter makes them: window, transform, magnitudes, bands,
    cosines."""
    half = FFT // 2  # a transform of complex numbers, each two real ones
    transform = 4 * half // 2 * (half.bit_length() - 1)
    triangles, _ = tables()
    bins, weights = int((triangles > 0).any(1).sum()), int((triangles > 0).sum())
    return mfcc_shape(samples)[1] * (FRAME + transform + 6 * bins + weights + BANDS * COEFFICIENTS)


@lru_cache(maxsize=1)
def tables() -> tuple[Tensor, Tensor]:
    """Triangles in mel ``(257, 40)``, the bin at zero left out, and the cosines ``(40, 10)``."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    place = _mel(hertz)[:, None]
    edges = torch.linspace(float(_mel(torch.tensor(LOW_HZ))), float(_mel(torch.tensor(HIGH_HZ))), BANDS + 2, dtype=torch.float64)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((place - low) / (centre - low), (high - place) / (high - centre)).clamp_min(0)
    triangles[0] = 0
    band, order = torch.arange(BANDS, dtype=torch.float64), torch.arange(COEFFICIENTS, dtype=torch.float64)
    cosines = torch.cos(math.pi / BANDS * (band[:, None] + 0.5) * order) * 2 / math.sqrt(2 * BANDS)
    return triangles.float(), cosines.float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz.double() / 700.0)
