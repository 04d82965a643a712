"""Zeroth order (SPSA): two inferences and no backward pass."""

from .method import ZerothOrder

__all__ = ["ZerothOrder"]
