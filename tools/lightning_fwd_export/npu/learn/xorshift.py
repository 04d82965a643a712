"""Numbers that a device draws again from the same seed."""

from __future__ import annotations

import numpy as np


class Xorshift:
    """Marsaglia's xorshift with 32 bits."""

    def __init__(self, seed: int):
        if not 0 < seed < 1 << 32:
            raise ValueError(f"a seed of {seed}, it has 32 bits and is not 0")
        self._state = seed

    def draw(self) -> int:
        x = self._state
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self._state = x
        return x

    def signs(self, count: int) -> np.ndarray:
        """float32, 1 or -1."""
        return np.float32([1 if self.draw() >> 31 else -1 for _ in range(count)])
