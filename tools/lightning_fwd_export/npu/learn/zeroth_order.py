"""Shifts and scales learn from labels by forward passes alone: a random step forth, one back, and the loss says which way to go.

All shifts and scales are moved at once by signs drawn from a seed (simultaneous perturbation, Spall 1992). The difference of the two losses
is the slope along that direction. Nothing is stored per parameter but the parameter: a device draws the signs again where it needs them.
"""

from __future__ import annotations

import numpy as np

from .affine import F32
from .head import Head, log, softmax
from .learner import FEATURES, TAPS, NpuLearner
from .norm import Norm

_SMALLEST_PROBABILITY = F32(1e-12)


class ZerothOrder:
    """Trains the batch norms of a learner, and a head by its delta rule, by two inferences per sample.

    Args:
        learner: its records are rewritten. An :class:`.NpuLearner`: no way back is needed.
        lr: of the first step, relative to a channel's scale; it falls to zero along a straight line over ``steps``.
        spread: of the perturbation, relative to a channel's scale.
        seed: of the signs, not 0.

    Attributes:
        norms: shifts and scales as they are now; the learner's from now on.
    """

    def __init__(self, learner: NpuLearner, lr: float, spread: float, steps: int, seed: int = 1):
        self._learner, self._lr, self._spread, self._steps, self._done = learner, F32(lr), F32(spread), steps, 0
        learner.norms = self.norms = {layer: Norm.of(learner.norm_modules[layer]) for layer in learner.tapped.layers}
        self._units = {layer: F32(learner.program.outputs[TAPS + k].scale) for k, layer in enumerate(learner.tapped.layers)}
        self._signs = _Signs(seed)

    def step(self, head: Head, stored: np.ndarray, labels: np.ndarray) -> np.float32:
        """One batch, of the size that the head was made for; the slope of the loss along the direction drawn.

        Args:
            stored: int8 ``(B, ...)``. labels: class numbers.
        """
        signs = {layer: (self._signs.draw(norm.shift.size), self._signs.draw(norm.shift.size)) for layer, norm in self.norms.items()}
        features = [self._features(stored, signs, way * self._spread) for way in (F32(1), F32(-1))]
        up, down = (_loss(head.logits(f), labels) for f in features)
        slope = (up - down) / (F32(2) * self._spread)
        rate = self._lr * (F32(self._steps - self._done) / F32(self._steps))
        for layer, norm in self.norms.items():
            shift, scale = self._moved(layer, signs, -rate * slope)
            norm.move(self._learner.affine[layer], self._units[layer], shift, scale)
            self._learner.write(layer)
        head.step((features[0] + features[1]) * F32(0.5), labels)
        self._done += 1
        return slope

    def _moved(self, layer: str, signs, by: np.float32) -> tuple[np.ndarray, np.ndarray]:
        norm, (of_shift, of_scale) = self.norms[layer], signs[layer]
        return norm.shift + by * of_shift * norm.scale, norm.scale + by * of_scale * norm.scale

    def _features(self, stored: np.ndarray, signs, by: np.float32) -> np.ndarray:
        learner = self._learner
        for layer, norm in self.norms.items():
            gain, offset = norm.moved(learner.affine[layer], self._units[layer], *self._moved(layer, signs, by))
            learner.split.write(learner.table, layer, learner.affine[layer].records(gain, offset))
        return learner.program.outputs[FEATURES].real(learner.run(stored)[FEATURES])


class _Signs:
    """Marsaglia's xorshift with 32 bits: a device draws the same signs from the same seed."""

    def __init__(self, seed: int):
        if not 0 < seed < 1 << 32:
            raise ValueError(f"a seed of {seed}, it has 32 bits and is not 0")
        self._state = seed

    def draw(self, count: int) -> np.ndarray:
        signs = np.empty(count, np.float32)
        for k in range(count):
            x = self._state
            x ^= x << 13 & 0xFFFFFFFF
            x ^= x >> 17
            x ^= x << 5 & 0xFFFFFFFF
            self._state = x
            signs[k] = 1 if x >> 31 else -1
        return signs


def _loss(logits: np.ndarray, labels: np.ndarray) -> np.float32:
    """Mean cross entropy, summed one sample after the other."""
    chosen = softmax(logits)[np.arange(len(labels)), labels]
    return np.add.accumulate(-log(np.maximum(chosen, _SMALLEST_PROBABILITY)), dtype=F32)[-1] / F32(len(labels))
