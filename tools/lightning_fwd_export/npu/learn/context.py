"""Forward-Forward with the label as a context: positive and negative are the same image under two tables of records.

Every class has an offset for each channel (a one-hot label as a bias per channel, after the Contextual Convolutions of ICCV workshops
2025), so a class is a table of records, and to show another label is to hand the NPU another base pointer. Each layer raises its goodness
under the true label's table and lowers it under a wrong one's; what it learns from are its own two pooled outputs, no error comes from
above.
"""

from __future__ import annotations

import numpy as np

from .affine import F32
from .head import Head, exp
from .learner import TAPS, NpuLearner
from .xorshift import Xorshift


class ContextForwardForward:
    """Trains the contexts and the batch norms' shifts, and a head on the plain image, by three inferences per sample.

    The goodness ``g`` of a layer is the mean over channels of its squared pooled output: the NPU tells no others. The loss is SymBa's,
    ``softplus(-sharpness (g_positive - g_negative))``, and a ReLU passes its gradient whole.

    Args:
        learner: its records are rewritten. An :class:`.NpuLearner`: no way back is needed.
        lr: of the first step, in units of each channel's scale; it falls to zero along a straight line over ``steps``.
        scale: of the contexts as drawn, in the same units.
        sharpness: on the difference of goodness.
        seed: of contexts and wrong labels, not 0.

    Attributes:
        norms: the learner's shifts and scales.
        context: by layer, ``(classes, C)``, in units of each channel's scale; the learner's from now on.
        order: of the runs of the last step, as a device has them: sample by sample plain, positive, negative.
    """

    def __init__(self, learner: NpuLearner, lr: float, steps: int, scale: float = 0.1, sharpness: float = 1.0, seed: int = 1):
        if not (0 <= lr < np.inf and 0 < scale < np.inf and 0 < sharpness < np.inf):
            raise ValueError(f"rate {lr}, contexts of {scale}, sharpness {sharpness}: no rate is negative, the others are above 0")
        self._learner, self._lr, self._sharpness, self._steps, self._done = learner, F32(lr), F32(sharpness), steps, 0
        self._random = Xorshift(seed)
        self.norms, self._units = learner.learn_norms(), learner.steps
        classes = learner.tapped.module.get_submodule(learner.tapped.head).out_features
        learner.context = self.context = {layer: self._drawn(classes, norm.shift.size, F32(scale)) for layer, norm in self.norms.items()}
        self.order: np.ndarray = np.arange(0)

    def _drawn(self, classes: int, channels: int, scale: np.float32) -> np.ndarray:
        """Centred over the classes: none is the plain network's."""
        signs = self._random.signs(classes * channels).reshape(classes, channels)
        return (signs - np.add.accumulate(signs, axis=0, dtype=F32)[-1] / F32(classes)) * scale

    def step(self, head: Head, stored: np.ndarray, labels: np.ndarray) -> None:
        """One batch, of the size that the head was made for.

        Args:
            stored: int8 ``(B, ...)``. labels: class numbers.
        """
        if not self.context:
            raise ValueError("the contexts were taken back to before there were any: make a new ContextForwardForward")
        classes, batch = len(head.bias), len(labels)
        wrong = np.array([(label + 1 + self._random.draw() % (classes - 1)) % classes for label in labels])
        head.step(self._learner.features(stored), labels)
        shown = np.concatenate([labels, wrong])
        taps = self._under_labels(np.concatenate([stored, stored]), shown)
        by_class = np.argsort(shown, kind="stable")
        ran = np.empty(2 * batch, int)
        ran[by_class] = batch + np.arange(2 * batch)
        self.order = np.stack([np.arange(batch), ran[:batch], ran[batch:]], axis=1).ravel()
        rate = self._lr * (F32(self._steps - self._done) / F32(self._steps))
        for layer, both in taps.items():
            self._update(layer, both[:batch], both[batch:], labels, wrong, rate)
        self._done += 1

    def goodness(self, stored: np.ndarray) -> np.ndarray:
        """``(N, classes)``: of each label, summed over all layers but the first (over the only one, if there is one)."""
        classes, layers = len(next(iter(self.context.values()))), self._learner.tapped.layers
        found = []
        for label in range(classes):
            taps = self._under_labels(stored, np.full(len(stored), label))
            total = np.zeros(len(stored), F32)
            for layer in layers[1:] or layers:
                total = total + _goodness(taps[layer])
            found.append(total)
        return np.stack(found, axis=1)

    def _under_labels(self, stored: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Pooled outputs ``(N, C)`` of every layer, real units, of each image under its label's records; then the plain ones again."""
        learner = self._learner
        taps = {layer: np.empty((len(stored), norm.shift.size), F32) for layer, norm in self.norms.items()}
        for label in np.unique(labels):
            for layer, norm in self.norms.items():
                affine = learner.affine[layer]
                offset = affine.offset + self.context[layer][label] * norm.scale / self._units[layer]
                learner.split.write(learner.table, layer, affine.records(offset=offset))
            outputs = learner.run(stored[labels == label])
            for k, layer in enumerate(learner.tapped.layers):
                taps[layer][labels == label] = learner.program.outputs[TAPS + k].real(outputs[TAPS + k])
        for layer in self.norms:
            learner.write(layer)
        return taps

    def _update(self, layer: str, positive, negative, labels, wrong, rate: np.float32) -> None:
        norm, context, learner = self.norms[layer], self.context[layer], self._learner
        gradient, of_shift = np.zeros_like(context), np.zeros_like(norm.shift)
        margin = self._sharpness * (_goodness(positive) - _goodness(negative))
        push = self._sharpness * _sigmoid(-margin) * (F32(2) / F32(norm.shift.size))
        for k in range(len(labels)):
            up, down = push[k] * positive[k] * norm.scale, push[k] * negative[k] * norm.scale
            gradient[labels[k]] = gradient[labels[k]] - up
            gradient[wrong[k]] = gradient[wrong[k]] + down
            of_shift = of_shift + (down - up)
        context -= rate * (gradient / F32(len(labels)))
        shift = norm.shift - rate * (of_shift / F32(len(labels))) * norm.scale
        norm.move(learner.affine[layer], self._units[layer], shift, norm.scale)
        learner.write(layer)


def _goodness(tap: np.ndarray) -> np.ndarray:
    """``(N, C)`` to ``(N,)``."""
    return np.add.accumulate(tap * tap, axis=1, dtype=F32)[:, -1] / F32(tap.shape[1])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    power = exp(-np.abs(x))
    return np.where(x > 0, F32(1), power) / (F32(1) + power)
