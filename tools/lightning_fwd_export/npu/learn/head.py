"""The last layer on the CPU: softmax, cross entropy, momentum; float32 in the order of the exported C."""

from __future__ import annotations

import numpy as np

from .affine import F32

#: Cephes' expf: ln 2 in two parts, and the polynomial of exp(r) - 1 - r over r**2
_LOG2E, _LN2_HIGH, _LN2_LOW = F32(1.44269504), F32(0.693359375), F32(-2.12194440e-4)
_POLYNOMIAL = tuple(map(F32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)))
_NOTHING = F32(-87)


class Head:
    """A linear layer that learns from features by steps over batches.

    Args:
        weight: ``(classes, features)``. bias: ``(classes,)``. Copies are taken.
        lr: of the first step; it falls to zero along a straight line over ``steps``.
        momentum: of plain SGD.
        batch: samples per step.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray, lr: float, momentum: float, batch: int, steps: int):
        self.weight, self.bias = F32(weight).copy(), F32(bias).copy()
        self._moments = np.zeros_like(self.weight), np.zeros_like(self.bias)
        self._lr, self._momentum, self._batch, self._steps, self._done = F32(lr), F32(momentum), batch, steps, 0

    @property
    def rate(self) -> np.float32:
        """Of the next step."""
        return self._lr * (F32(self._steps - self._done) / F32(self._steps))

    @property
    def momentum(self) -> np.float32:
        return self._momentum

    def forget(self) -> None:
        """Its moments."""
        for moment in self._moments:
            moment[...] = 0

    def logits(self, features: np.ndarray) -> np.ndarray:
        """``(B, features)`` to ``(B, classes)``, summed from the bias on, one product after the other."""
        products = self.weight * features[:, None, :]
        start = np.broadcast_to(self.bias[None, :, None], (*products.shape[:2], 1))
        return np.add.accumulate(np.concatenate([start, products], axis=2), axis=2, dtype=F32)[..., -1]

    def step(self, features: np.ndarray, labels: np.ndarray) -> None:
        """One batch of the size given; float32 ``(B, features)`` and class numbers."""
        if len(features) != self._batch or self._done >= self._steps:
            raise ValueError(f"step {self._done} of {self._steps} with {len(features)} samples, {self._batch} make one")
        error = softmax(self.logits(features))
        error[np.arange(len(labels)), labels] -= F32(1)
        rate = self.rate
        gradients = (error[:, :, None] * features[:, None, :], error)
        for value, moment, gradient in zip((self.weight, self.bias), self._moments, gradients, strict=True):
            moment[...] = self._momentum * moment + np.add.accumulate(gradient, axis=0, dtype=F32)[-1] / F32(self._batch)
            value -= rate * moment
        self._done += 1


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / np.add.accumulate(powers, axis=-1, dtype=F32)[..., -1:]


def exp(x: np.ndarray) -> np.ndarray:
    """For ``x`` not above 0, to one unit of the last place or so."""
    n = np.rint(x * _LOG2E)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    y = np.full_like(r, _POLYNOMIAL[0])
    for coefficient in _POLYNOMIAL[1:]:
        y = y * r + coefficient
    y = y * (r * r) + r + F32(1)
    return np.where(x < _NOTHING, F32(0), np.ldexp(y, n.astype(np.int32)))


#: Cephes' logf: the polynomial of log(1 + m) - m + m * m / 2 over m**3
_LOG = tuple(
    map(
        F32,
        (
            7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1,
            -2.4999993993e-1, 3.3333331174e-1,
        ),
    )
)  # fmt: skip
_SQRT_HALF = F32(0.707106781)


def log(x: np.ndarray) -> np.ndarray:
    """For ``x`` above 0, to one unit of the last place or so."""
    m, n = np.frexp(x)
    low = m < _SQRT_HALF
    m, n = np.where(low, m + m - F32(1), m - F32(1)), np.where(low, n - 1, n).astype(np.float32)
    z, y = m * m, np.full_like(m, _LOG[0])
    for coefficient in _LOG[1:]:
        y = y * m + coefficient
    y = y * m * z
    y = y + n * _LN2_LOW
    y = y - F32(0.5) * z
    return m + y + n * _LN2_HIGH
