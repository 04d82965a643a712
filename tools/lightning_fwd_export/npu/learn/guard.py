"""What is learned has to help on samples held back, or it is taken back; float32 in the order of the exported C.

The criterion is that of every adaptation (:mod:`lightning_fwd.adaptation`): the loss, before and after at its own best scale of the logits,
must be lower, and no more right answers may be lost than are won and the root of both together (McNemar 1947).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .affine import F32
from .head import Head, exp, log
from .learner import NpuLearner

#: of the logits, at which a loss is looked up
SCALES = tuple(F32(2 ** (k / 2)) for k in range(-12, 7))


@dataclass(frozen=True)
class Verdict:
    """``before``, ``after``: mean cross entropy at its best scale of the logits, in nats. ``lost``, ``won``: right answers."""

    kept: bool
    before: float
    after: float
    lost: int
    won: int


class Guard:
    """Holds a learner and its head, as they are now, against what they become.

    Args:
        learner, head: what will learn.
        stored: int8 ``(N, ...)``, samples that are not trained on. labels: their class numbers.
    """

    def __init__(self, learner: NpuLearner, head: Head, stored: np.ndarray, labels: np.ndarray):
        if not len(stored):
            raise ValueError("no samples are held back, and they judge")
        self._learner, self._head, self._stored, self._labels = learner, head, stored, labels
        self._kept = learner.state(), head.weight.copy(), head.bias.copy()
        self._before, self._right = self._judge()

    def end(self) -> Verdict:
        """Judge again; where it does harm, records and head are those of the beginning, bit for bit."""
        after, right = self._judge()
        lost, won = int((self._right & ~right).sum()), int((right & ~self._right).sum())
        kept = bool(after < self._before) and not (lost > won and (lost - won) ** 2 > lost + won)
        if not kept:
            state, self._head.weight[...], self._head.bias[...] = self._kept
            self._learner.restore(state)
            self._head.forget()
        return Verdict(kept, float(self._before), float(after), lost, won)

    def _judge(self) -> tuple[np.float32, np.ndarray]:
        logits = self._head.logits(self._learner.features(self._stored))
        right = logits.argmax(1) == self._labels
        logits = logits - logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(logits)), self._labels]
        return min(_sum(log(_sum(exp(scale * logits))) - scale * chosen) for scale in SCALES) / F32(len(logits)), right


def _sum(values: np.ndarray) -> np.ndarray:
    """Over the last axis, one after the other."""
    return np.add.accumulate(values, axis=-1, dtype=F32)[..., -1]
