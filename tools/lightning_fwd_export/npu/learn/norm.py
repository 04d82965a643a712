"""A batch norm's parameters as they learn, and the records that follow them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from .affine import F32, Affine
from .statistics import Statistics

#: of the scale that a channel was trained to, which it keeps: its gradient is divided by its scale, and so is what rounding did to it
LEAST = F32(0.25)
#: a channel that was trained to a scale of nothing learns its shift; its gain multiplies weights that are nothing
_SMALLEST = F32(1e-3)


@dataclass
class Norm:
    """A batch norm's parameters as they are now, as they were trained, and their moments: real units, float32 ``(C,)``."""

    shift: np.ndarray
    scale: np.ndarray
    shift_moment: np.ndarray
    scale_moment: np.ndarray
    trained_shift: np.ndarray
    trained_scale: np.ndarray

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Norm:
        shift, scale = (norm.bias, norm.weight.abs()) if norm.affine else (norm.running_mean * 0, norm.running_mean * 0 + 1)
        shift, scale = F32(shift.detach().numpy()), np.maximum(F32(scale.detach().numpy()), _SMALLEST)
        return cls(shift.copy(), scale.copy(), np.zeros_like(shift), np.zeros_like(scale), shift, scale)

    @property
    def least(self) -> np.ndarray:
        """What a scale stays above."""
        return LEAST * self.trained_scale

    def forget(self) -> None:
        """Its moments."""
        self.shift_moment, self.scale_moment = np.zeros_like(self.shift), np.zeros_like(self.scale)

    def aim(self, source: Statistics, step: np.float32) -> Statistics:
        """The source's statistics, moved as the norm was since it was trained. ``step``: of the layer's int8 output, real units."""
        return Statistics(source.mean + (self.shift - self.trained_shift) / step, source.spread * (self.scale / self.trained_scale))

    def moved(self, affine: Affine, step: np.float32, shift: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gain and offset of a layer with another shift and scale. ``step``: of its int8 output, real units."""
        by = scale / self.scale
        return affine.gain * by, by * (affine.offset - self.shift / step) + shift / step

    def move(self, affine: Affine, step: np.float32, shift: np.ndarray, scale: np.ndarray) -> None:
        """Take them, as far as the scale may fall."""
        scale = np.maximum(scale, self.least)
        affine.gain, affine.offset = self.moved(affine, step, shift, scale)
        self.shift, self.scale = shift, scale
