"""The front end of :mod:`.audio` in integers, for cores without floats: this is the definition, ``lfwd_mfcc_integer.c`` has its bits.

A frame is windowed to 30 bits and transformed in int32, each multiplying stage at half the scale of the one before, so that nothing can
overflow; sums of bands are 64 bits; roots and logarithms are lines between the entries of tables. No value depends on a rounding of floats.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lightning_fwd.data.audio import BANDS, COEFFICIENTS, FFT, FRAME, HOP, STEP, ZERO, mfcc_shape, tables

HALF = FFT // 2
NORMAL = 15  #: bits of the loudest sample of a recording, brought there by a power of two
SPECTRUM = 6  #: bits of a magnitude below one step of the (brought up) recording: 15 of the window, less 2 and 7 of the stages
WEIGHT = LEVEL = COSINE = 16  #: fractions of bands' weights, of logarithms (base 2) and of cosines
FLOOR = 1e-6  #: added to a band of a recording whose peak is 1
SILENCE = round(math.log2(FLOOR) * (1 << LEVEL))  #: the least level
NO_PEAK = round(math.log2(1e-9 * (1 << 15)) * (1 << LEVEL))  #: level of the peak of what never rises above zero
FLOOR_BITS = 12
FLOOR_OF_PEAK = round(FLOOR * (1 << (SPECTRUM + WEIGHT + FLOOR_BITS)))  #: of a peak of 1, as a band counts, times 2**12


@lru_cache(maxsize=1)
def integer_tables() -> dict[str, Tensor]:
    """int64, by name.

    ``window (241,)`` Q15, a half; ``sines (129,)`` Q31, a quarter turn; ``weights (257, 40)`` Q16; ``cosines (40, 10)`` Q16, in steps of
    the features for powers of two; ``roots (49,)`` of 16..64 in units of 2**26, times 8; ``logs (65,)`` Q16 of 1..2.
    """
    triangles, _ = tables()
    band, order = torch.arange(BANDS, dtype=torch.float64), torch.arange(COEFFICIENTS, dtype=torch.float64)
    cosines = torch.cos(math.pi / BANDS * (band[:, None] + 0.5) * order) * 2 / math.sqrt(2 * BANDS)
    exact = {
        "window": torch.hann_window(FRAME, periodic=True, dtype=torch.float64)[: FRAME // 2 + 1] * (1 << 15),
        "sines": torch.sin(2 * math.pi / FFT * torch.arange(FFT // 4 + 1, dtype=torch.float64)) * ((1 << 31) - 1),
        "weights": (triangles.double() * (1 << WEIGHT)).clamp(max=(1 << WEIGHT) - 1),
        "cosines": cosines * (math.log(2) / STEP * (1 << COSINE)),
        "roots": torch.arange(16, 65, dtype=torch.float64).sqrt() * (8 << 13),
        "logs": torch.log2(1 + torch.arange(65, dtype=torch.float64) / 64) * (1 << LEVEL),
    }
    return {name: value.round().long() for name, value in exact.items()}


def mfcc_steps(audio: Tensor) -> Tensor:
    """The coefficients of :func:`.audio.mfcc` as steps of int8.

    Args:
        audio: ``(B, T)`` int16 at 16 kHz, T >= 480.

    Returns:
        ``(B, 1, frames, 10)`` int64, -128..127; a coefficient is ``(steps - ZERO) * STEP``.
    """
    audio = audio.long()
    loudest, peak = audio.abs().amax(1), audio.amax(1)
    gain = 1 << (NORMAL - bit_length(loudest)).clamp(0)
    floor = (peak.clamp_min(0) * gain * FLOOR_OF_PEAK) >> FLOOR_BITS
    least = torch.where(peak > 0, log2(peak.clamp_min(1)), NO_PEAK) + ((bit_length(gain) - 1 + SPECTRUM + WEIGHT) << LEVEL)
    frames = audio.unfold(1, FRAME, HOP)
    count = frames.shape[1]
    each = [part.repeat_interleave(count) for part in (gain, floor, least)]
    steps = torch.cat([_frame_steps(*parts) for parts in zip(*(part.split(_CHUNK) for part in (frames.flatten(0, 1), *each)), strict=True)])
    return steps.reshape(-1, *mfcc_shape(audio.shape[1]))


_CHUNK = 4096  #: frames at a time


def _frame_steps(frames: Tensor, gain: Tensor, floor: Tensor, least: Tensor) -> Tensor:
    """Frames ``(N, 480)`` with what belongs to their recordings ``(N,)``: steps ``(N, 10)``."""
    known = integer_tables()
    bands = magnitudes(frames, gain) @ known["weights"][1:HALF] + floor[:, None]
    levels = torch.where(bands > 0, log2(bands.clamp_min(1)) - least[:, None], SILENCE).clamp_min(SILENCE)
    sums = levels @ known["cosines"] + (ZERO << (LEVEL + COSINE)) + (1 << (LEVEL + COSINE - 1))
    return (sums >> (LEVEL + COSINE)).clamp(-128, 127)


def magnitudes(frames: Tensor, gain: Tensor) -> Tensor:
    """Of bins 1..255 of windowed frames ``(N, 480)``, times the gain ``(N,)`` and ``2**SPECTRUM``."""
    place = torch.arange(FRAME)
    window = integer_tables()["window"][torch.minimum(place, FRAME - place)]
    z = torch.zeros(len(frames), FFT, dtype=torch.int64)
    z[:, :FRAME] = (frames * (window * gain[:, None])) >> 2
    re, im = _transform(*(z[:, part::2][:, _reversed(HALF)] for part in (0, 1)))
    k = torch.arange(1, HALF)
    a_re, a_im, b_re, b_im = (x >> 1 for x in (re[:, k], im[:, k], re[:, HALF - k], im[:, HALF - k]))
    odd_re, odd_im = _turned(a_im + b_im, b_re - a_re, *_turn(k))
    return root((((a_re + b_re) >> 1) + odd_re) ** 2 + (((a_im - b_im) >> 1) + odd_im) ** 2)


def _transform(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """Of complex numbers ``(N, 256)``, bits of their places reversed: decimation in time, times ``2**-6``."""
    count, re, im = len(re), re.reshape(-1, HALF // 4, 2, 2), im.reshape(-1, HALF // 4, 2, 2)
    (s_re, d_re), (s_im, d_im) = ((x[..., 0] + x[..., 1], x[..., 0] - x[..., 1]) for x in (re, im))  # of pairs
    turned_re, turned_im = d_im[..., 1], -d_re[..., 1]  # by a quarter
    firsts_re, firsts_im = (torch.stack(p, -1) for p in ((s_re[..., 0], d_re[..., 0]), (s_im[..., 0], d_im[..., 0])))
    others_re, others_im = (torch.stack(p, -1) for p in ((s_re[..., 1], turned_re), (s_im[..., 1], turned_im)))
    re, im = (torch.cat([a + b, a - b], -1) for a, b in ((firsts_re, others_re), (firsts_im, others_im)))
    for size in (4, 8, 16, 32, 64, 128):
        re, im = (x.reshape(count, -1, 2, size) for x in (re, im))
        t_re, t_im = _turned(re[:, :, 1], im[:, :, 1], *_turn(torch.arange(size) * (HALF // size)))
        re, im = (torch.cat([(a >> 1) + t, (a >> 1) - t], -1) for a, t in ((re[:, :, 0], t_re), (im[:, :, 0], t_im)))
    return re.reshape(count, HALF), im.reshape(count, HALF)


def _turn(k: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of ``2 pi k / 512`` in Q31, ``0 <= k < 256``."""
    sines, quarter = integer_tables()["sines"], FFT // 4
    return torch.where(k <= quarter, sines[(quarter - k).abs()], -sines[(quarter - k).abs()]), sines[quarter - (quarter - k).abs()]


def _turned(re: Tensor, im: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Half of ``(re + i im) (c - i s)``, towards minus infinity."""
    return (re * c + im * s) >> 32, (im * c - re * s) >> 32


def _reversed(count: int) -> Tensor:
    bits = count.bit_length() - 1
    return torch.tensor([int(f"{n:0{bits}b}"[::-1], 2) for n in range(count)])


def bit_length(x: Tensor) -> Tensor:
    """Of each value, ``0 <= x < 2**62``."""
    high = x >> 31
    return torch.where(high > 0, torch.frexp(high.double()).exponent + 31, torch.frexp((x & ((1 << 31) - 1)).double()).exponent).long()


def _top32(x: Tensor, bits: Tensor) -> Tensor:
    """The leading 32 bits of what has so many."""
    return torch.where(bits > 32, x >> (bits - 32).clamp_min(0), x << (32 - bits).clamp_min(0))


def _between(table: Tensor, at: Tensor, fraction: Tensor) -> Tensor:
    """On the line from an entry to the next; ``fraction`` in Q16."""
    return table[at] + (((table[at + 1] - table[at]) * fraction) >> 16)


def root(x: Tensor) -> Tensor:
    """Square root of ``0 <= x < 2**59``, to 2**-13 of it."""
    bits = (bit_length(x) + 1) & ~1  # even, so that the root of the power of two is one
    m = _top32(x, bits.clamp_min(2))
    mantissa, below = _between(integer_tables()["roots"], ((m >> 26) - 16).clamp_min(0), (m >> 10) & 0xFFFF), 19 - (bits >> 1)
    return torch.where(x > 0, torch.where(below > 0, mantissa >> below.clamp_min(0), mantissa << (-below).clamp_min(0)), 0)


def log2(x: Tensor) -> Tensor:
    """Of ``0 < x < 2**62`` in Q16, to 2**-14."""
    bits = bit_length(x)
    m = _top32(x, bits)
    return ((bits - 1) << LEVEL) + _between(integer_tables()["logs"], (m >> 25) & 63, (m >> 9) & 0xFFFF)


def integer_mfcc_macs(samples: int) -> int:
    """Multiplications of a recording of so many samples: window, transform, bins, bands, roots and logarithms, cosines."""
    weights = integer_tables()["weights"][1:HALF]
    bins, count = int((weights > 0).any(1).sum()), int((weights > 0).sum())
    return mfcc_shape(samples)[1] * (2 * FRAME + 4 * HALF // 2 * 6 + 7 * bins + count + BANDS + BANDS * COEFFICIENTS)
