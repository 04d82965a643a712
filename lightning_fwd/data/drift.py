"""Concept drift as a transform: the target is a view of the source.

    drift = Drift("noise", 0.08)             # Gaussian, sigma 0.08 on pixels in 0..1
    drift = Drift("blur", level=2, seed=7)   # one of five named strengths
    drift = as_drift("contrast=0.3+noise=0.04")
    x_target = drift(x_source, index)        # images (B, C, H, W) or signals (B, C, T), same shape

A drift is a pure function of the sample and its index: the same sample gets the same noise in any batch, on any rank
and in any epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lightning_fwd.data.audio_drift import AUDIO_KINDS
from lightning_fwd.data.drift_kinds import DRIFT_KINDS
from lightning_fwd.data.sample_random import SampleRandom

DRIFTS: tuple[str, ...] = tuple(DRIFT_KINDS)
"""The kinds of drift of images and signals, by name."""
AUDIO_DRIFTS: tuple[str, ...] = tuple(AUDIO_KINDS)
"""Those of recordings."""

KINDS = DRIFT_KINDS | AUDIO_KINDS

DEFAULT_LEVEL = 3


@dataclass(frozen=True)
class Drift:
    """One kind of drift at one strength.

    ============= ================================================================ ======= ============================
    kind          severity                                                         signals levels 1..5
    ============= ================================================================ ======= ============================
    noise         sigma of Gaussian noise, in full scale                           yes     0.04, 0.06, 0.08, 0.09, 0.10
    blur          side of the box filter in pixels, odd                            yes     3, 5, 7, 9, 11
    contrast      factor on the distance to the image's (each channel's) mean      yes     0.75, 0.5, 0.4, 0.3, 0.15
    brightness    offset of every pixel, in full scale                             no      0.05, 0.1, 0.15, 0.2, 0.3
    rotation      degrees, counter-clockwise                                       no      5, 10, 20, 30, 45
    gain_offset   s: gain 1+s or 1-s and offset +s/2 or -s/2, drawn per channel    yes     0.05, 0.1, 0.2, 0.3, 0.4
    impulse_noise fraction of values replaced by the extremes                      yes     0.01, 0.02, 0.03, 0.05, 0.07
    pixelation    side in pixels of the block that becomes one value               yes     2, 3, 4, 5, 6
    shift         pixels right and down (time steps later), edge repeated          yes     1, 2, 3, 4, 6
    occlusion     fraction of the area that reads zero, one block per sample       yes     0.02, 0.05, 0.1, 0.2, 0.3
    ============= ================================================================ ======= ============================

    Of recordings (B, T) at 16 kHz: white_noise, babble, dull_microphone, reverberation, clipping, rate; see `lightning-fwd list drifts`.

    Args:
        kind: one of `DRIFTS` or `AUDIO_DRIFTS`.
        severity: strength in the unit of the table.
        seed: of the noise, the positions and the gains.
        level: a named strength, 1 (mild) to 5 (severe), in place of `severity`. Neither given: level 3.

    Raises:
        ValueError: unknown kind, severity outside what the kind allows, level outside 1..5, or both severity and level.
    """

    kind: str
    severity: float | None = None
    seed: int = 0
    level: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown drift {self.kind!r}; known are: {', '.join(KINDS)}")
        kind, severity = KINDS[self.kind], self.severity
        if severity is None:
            level = DEFAULT_LEVEL if self.level is None else self.level
            if level not in range(1, 6):
                raise ValueError(f"drift {self.kind!r}: level {level!r} is not one of 1, 2, 3, 4, 5")
            severity = kind.levels[level - 1]
        elif self.level is not None:
            raise ValueError(f"drift {self.kind!r}: give severity={severity} or level={self.level}, not both")
        if isinstance(severity, bool) or not isinstance(severity, (int, float)):
            raise ValueError(f"drift {self.kind!r}: severity {severity!r} is not a number ({kind.meaning})")
        if not kind.low <= severity <= kind.high:  # also true of NaN
            raise ValueError(f"drift {self.kind!r}: severity {severity} is outside {kind.low}..{kind.high} ({kind.meaning})")
        if kind.step and (severity != int(severity) or (kind.step == 2 and severity % 2 == 0)):
            wanted = "an odd whole number" if kind.step == 2 else "a whole number"
            raise ValueError(f"drift {self.kind!r}: severity {severity} is not {wanted} ({kind.meaning})")
        object.__setattr__(self, "severity", severity)
        object.__setattr__(self, "level", None)  # resolved: two spellings of one drift compare equal

    def __str__(self) -> str:
        return f"{self.kind}={self.severity:g}"

    def __call__(
        self, x: Tensor, index: Tensor | None = None, *, stage: int = 0, signal: bool | None = None, others: Tensor | None = None
    ) -> Tensor:
        """Drift a batch.

        Args:
            x: images (B, C, H, W) in 0..1; signals, standardised: (B, C, T), or (B, C, H, W) for spectrograms; or recordings (B, T).
            index: (B,) integers that identify the samples; 0..B-1 when left out.
            stage: place in a chain, so that two drifts of one kind and seed draw independent noise.
            signal: whether x are signals; by default those of three dimensions.
            others: recordings (N, T), of which babble is made.

        Returns:
            The same shape, dtype and device; images stay in 0..1. At the identity severity, `x` itself.

        Raises:
            ValueError: a shape, dtype or range that the drift has no meaning for.
        """
        kind = KINDS[self.kind]
        signal = x.ndim == 3 if signal is None else signal
        self._check(x, signal)
        if self.severity == kind.identity:
            return x
        index = torch.arange(len(x), device=x.device) if index is None else index.to(x.device, torch.int64)
        if index.shape != (len(x),):
            raise ValueError(f"drift {self}: index has shape {tuple(index.shape)}, expected ({len(x)},)")
        if kind.others and (others is None or others.shape[1:] != x.shape[1:] or not len(others)):
            raise ValueError(f"drift {self}: needs other recordings (N, {x.shape[1]}), of which it is made: give others=")
        drifted = kind.apply_to(x, self.severity, SampleRandom(index, self.seed, f"{self.kind}/{stage}"), signal, others)
        return drifted if signal or kind.audio else drifted.clamp_(0, 1)

    def _check(self, x: Tensor, signal: bool) -> None:
        kind, shape = KINDS[self.kind], tuple(x.shape)
        if kind.audio != (x.ndim == 2):
            known = ", ".join(AUDIO_DRIFTS if x.ndim == 2 else DRIFTS)
            wanted = "recordings (B, T)" if kind.audio else "images (B, C, H, W) or signals (B, C, T)"
            raise ValueError(f"drift {self}: got shape {shape}, expected {wanted}; for these there are: {known}")
        if kind.audio:
            if not x.is_floating_point() or not x.shape[1]:
                raise ValueError(f"drift {self}: got {x.dtype} {shape}, expected recordings (B, T) in floats")
            return
        if x.ndim not in (3, 4) or 0 in shape[1:]:
            raise ValueError(f"drift {self}: got shape {shape}, expected images (B, C, H, W) or signals (B, C, T)")
        if signal and not kind.signals:
            raise ValueError(
                f"drift {self.kind!r} has no meaning on signals, got {shape} (an image holds uint8, or floats that all lie in 0..1); "
                "those that have: " + ", ".join(name for name, other in DRIFT_KINDS.items() if other.signals)
            )
        if not x.is_floating_point():
            raise ValueError(f"drift {self}: got {x.dtype}, expected floats (pixels divided by 255)")
        if not signal and len(x) and not (x.min() >= 0 and x.max() <= 1):
            found = f"{x.min():g}..{x.max():g}"
            raise ValueError(
                f"drift {self}: pixels must lie in 0..1, got {found}; drift first, then normalise; of spectrograms say signal=True"
            )
        if kind.step and abs(self.severity) >= min(shape[2:]) and self.severity != kind.identity:
            raise ValueError(f"drift {self}: too large for {shape}, whose shortest side is {min(shape[2:])}")


@dataclass(frozen=True)
class DriftChain:
    """Several drifts, one after the other."""

    drifts: tuple[Drift, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.drifts))

    def __call__(self, x: Tensor, index: Tensor | None = None, *, signal: bool | None = None, others: Tensor | None = None) -> Tensor:
        for stage, drift in enumerate(self.drifts):
            x = drift(x, index, stage=stage, signal=signal, others=others)
        return x


DriftSpec = Drift | DriftChain | str | Mapping | Sequence | None


def as_drift(spec: DriftSpec, severity: float | None = None, seed: int = 0) -> Drift | DriftChain | None:
    """Read a drift from the ways people write one.

    Args:
        spec: None, a `Drift` or `DriftChain`, a kind ("noise"), a kind with its severity ("noise=0.08"), several joined
            by "+" ("contrast=0.3+noise=0.04"), a mapping with the arguments of `Drift`, or a sequence of any of these.
        severity: for a single kind given without one.
        seed: for drifts that state none.

    Raises:
        ValueError: as `Drift`, or a severity given twice, or a spec that is none of the above.
    """
    match spec:
        case None if severity is not None:
            raise ValueError(f"a severity ({severity}) was given without a drift; name one of: {', '.join(KINDS)}")
        case None:
            return None
        case str() if "+" in spec:
            return as_drift(spec.split("+"), severity, seed)
        case str() if "=" in spec:
            kind, _, number = (part.strip() for part in spec.partition("="))
            try:
                value = float(number)
            except ValueError:
                raise ValueError(f"drift {spec!r}: {number!r} is not a number") from None
            return as_drift({"kind": kind, "severity": value}, severity, seed)
        case str():
            return Drift(spec.strip(), severity, seed)
        case Mapping():
            unknown = set(spec) - {"kind", "severity", "seed", "level"}
            if unknown or "kind" not in spec:
                raise ValueError(f"drift {dict(spec)!r}: expected the key 'kind' and optionally severity, level, seed")
            arguments = {"seed": seed, **spec}
            if severity is not None:
                if arguments.get("severity") is not None:
                    raise ValueError(f"drift {dict(spec)!r}: a second severity ({severity}) was given beside it")
                arguments["severity"] = severity
            return Drift(**arguments)
        case Drift() | DriftChain() if severity is not None:
            raise ValueError(f"drift {spec}: a second severity ({severity}) was given beside it")
        case Drift() | DriftChain():
            return spec
        case Sequence() if len(spec):
            if severity is not None and len(spec) > 1:
                raise ValueError(f"one severity ({severity}) for {len(spec)} drifts; write it with each of them")
            parts = [as_drift(part, severity, seed) for part in spec]
            if None in parts:
                raise ValueError(f"drift {spec!r}: an entry is empty")
            flat = tuple(d for part in parts for d in (part.drifts if isinstance(part, DriftChain) else (part,)))
            return flat[0] if len(flat) == 1 else DriftChain(flat)
    raise ValueError(f"not a drift: {spec!r}; write a kind ({', '.join(KINDS)}), a mapping or a list of these")


def drift_as_plain(drift: Drift | DriftChain | None) -> list[dict] | None:
    """The drift as plain numbers and strings, which `as_drift` reads back and a checkpoint may hold."""
    if drift is None:
        return None
    drifts = drift.drifts if isinstance(drift, DriftChain) else (drift,)
    return [{key: value for key, value in asdict(one).items() if key != "level"} for one in drifts]
