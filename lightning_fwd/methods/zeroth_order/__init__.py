"""Zeroth order (SPSA, or an evolution strategy): two inferences and no backward pass."""

from .method import ZerothOrder

__all__ = ["ZerothOrder"]
