"""Shifts and scales learn from labels by forward passes alone: a random step forth, one back, and the loss says which way to go.

All shifts and scales are moved at once by signs drawn from a seed (simultaneous perturbation, Spall 1992). The difference of the two losses
is the slope along that direction. Nothing is stored per parameter but the parameter: a device draws the signs again where it needs them.
"""

from __future__ import annotations

import numpy as np

from .affine import F32
from .head import Head, log, softmax
from .learner import FEATURES, NpuLearner
from .xorshift import Xorshift

_SMALLEST_PROBABILITY = F32(1e-12)


class ZerothOrder:
    """Trains the batch norms of a learner, and a head by its delta rule, by two inferences per sample.

    Args:
        learner: its records are rewritten. An :class:`.NpuLearner`: no way back is needed.
        lr: of the first step, relative to a channel's scale; it falls to zero along a straight line over ``steps``.
        spread: of the perturbation, relative to a channel's scale.
        seed: of the signs, not 0.

    Attributes:
        norms: the learner's shifts and scales.
        order: of the runs of the last step, as a device has them: sample by sample, a step forth and a step back.
    """

    def __init__(self, learner: NpuLearner, lr: float, spread: float, steps: int, seed: int = 1):
        if not (0 <= lr < np.inf and 0 < spread < np.inf):
            raise ValueError(f"a rate of {lr} and a spread of {spread}: neither is negative, and the slope is divided by the spread")
        self._learner, self._lr, self._spread, self._steps, self._done = learner, F32(lr), F32(spread), steps, 0
        self._random = Xorshift(seed)
        self.norms, self._units = learner.learn_norms(), learner.steps
        self.order: np.ndarray = np.arange(0)

    def step(self, head: Head, stored: np.ndarray, labels: np.ndarray) -> np.float32:
        """One batch, of the size that the head was made for; the slope of the loss along the direction drawn.

        Args:
            stored: int8 ``(B, ...)``. labels: class numbers.
        """
        signs = {layer: (self._random.signs(norm.shift.size), self._random.signs(norm.shift.size)) for layer, norm in self.norms.items()}
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
        self.order = np.arange(2 * len(labels)).reshape(2, -1).T.ravel()
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


def _loss(logits: np.ndarray, labels: np.ndarray) -> np.float32:
    """Mean cross entropy, summed one sample after the other."""
    chosen = softmax(logits)[np.arange(len(labels)), labels]
    return np.add.accumulate(-log(np.maximum(chosen, _SMALLEST_PROBABILITY)), dtype=F32)[-1] / F32(len(labels))
