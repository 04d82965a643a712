"""PEPITA and its family: the second forward pass, of an input modulated by the error, replaces the backward pass."""

from .feedback import FeedbackProjection
from .rule import Pepita

__all__ = ["FeedbackProjection", "Pepita"]
