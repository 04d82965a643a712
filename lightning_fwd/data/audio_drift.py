"""What drift does to sound before any feature is computed: where it happens on a device.

Recordings are (B, T) at 16 kHz. Everything is relative to the recording's own loudness or to time, so the scale does not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_fwd.data.audio import SAMPLE_RATE
from lightning_fwd.data.drift_kinds import DriftKind
from lightning_fwd.data.sample_random import SampleRandom

VOICES = 4  # of other recordings that make up the babble
_ROOM_DIRECT = 3.0  # the direct sound beside echoes that start with a deviation of one


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True).sqrt()


def _white_noise(x: Tensor, ratio: float, random: SampleRandom) -> Tensor:
    return x + random.normal(x.shape[1]) * _rms(x) * ratio


def _babble(x: Tensor, ratio: float, random: SampleRandom, others: Tensor) -> Tensor:
    chosen = (random.uniform(VOICES, name="voice") * len(others)).long()
    voices = others[chosen]  # (B, VOICES, T)
    loudness = voices.square().mean(2, keepdim=True).sqrt().clamp_min(1e-6)
    crowd = (voices / loudness).sum(1)
    return x + crowd / _rms(crowd).clamp_min(1e-6) * _rms(x) * ratio


def _filtered(x: Tensor, response: Tensor) -> Tensor:
    """Causal filtering of (B, T) by one impulse response."""
    size = x.shape[1] + len(response)
    return torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(response, size), size)[:, : x.shape[1]]


def _dull_microphone(x: Tensor, decay: float, random: SampleRandom) -> Tensor:
    response = torch.exp(-torch.arange(int(8 * decay) + 1, dtype=x.dtype, device=x.device) / decay)
    return _filtered(x, response / response.sum())


def _reverberation(x: Tensor, decay: float, random: SampleRandom) -> Tensor:
    length = min(x.shape[1], int(6 * decay * SAMPLE_RATE))
    one = SampleRandom(torch.zeros(1, dtype=torch.int64, device=x.device), random.seed, random.stream)  # one room for all
    echoes = one.normal(length)[0] * torch.exp(-torch.arange(length, device=x.device) / (decay * SAMPLE_RATE))
    echoes[0] = _ROOM_DIRECT
    return _filtered(x, echoes.to(x.dtype) / echoes.abs().max())


def _clipping(x: Tensor, share: float, random: SampleRandom) -> Tensor:
    limit = x.abs().amax(1, keepdim=True) * share
    return torch.minimum(torch.maximum(x, -limit), limit)


def _rate(x: Tensor, factor: float, random: SampleRandom) -> Tensor:
    count = x.shape[1]
    centre = (count - 1) / 2
    place = ((torch.arange(count, device=x.device, dtype=torch.float64) - centre) * factor + centre).clamp(0, count - 1)
    left = place.floor().long()
    part = (place - left).to(x.dtype)
    return x[:, left] * (1 - part) + x[:, (left + 1).clamp_max(count - 1)] * part


AUDIO_KINDS: dict[str, DriftKind] = {
    "white_noise": DriftKind(
        _white_noise, "loudness of white noise, as a share of the recording's own (0.56: 5 dB)", 0, 10, 0, (0.1, 0.3, 0.56, 1.0, 1.8),
        signals=False, audio=True,
    ),
    "babble": DriftKind(
        _babble, f"loudness of {VOICES} other speakers, as a share of the recording's own", 0, 10, 0, (0.1, 0.3, 0.56, 1.0, 1.8),
        signals=False, audio=True, others=True,
    ),
    "dull_microphone": DriftKind(
        _dull_microphone, "time constant in samples of an exponential low pass", 0, 500, 0, (3, 6, 10, 16, 24),
        signals=False, audio=True,
    ),
    "reverberation": DriftKind(
        _reverberation, "seconds in which the echoes of one room fall to 1/e", 0, 1, 0, (0.02, 0.04, 0.075, 0.12, 0.2),
        signals=False, audio=True,
    ),
    "clipping": DriftKind(
        _clipping, "share of the peak at which the wave is cut", 0.001, 1, 1, (0.3, 0.15, 0.08, 0.04, 0.02), signals=False, audio=True
    ),
    "rate": DriftKind(_rate, "factor on the speed of the recording", 0.25, 4, 1, (0.9, 0.85, 0.8, 0.75, 0.7), signals=False, audio=True),
}  # fmt: skip
