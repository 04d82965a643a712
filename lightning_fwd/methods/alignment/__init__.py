"""Alignment: layer by layer, give the target's activations the mean and covariance that the source's had. No labels, no gradient."""

from .method import Alignment
from .source import source_moments

__all__ = ["Alignment", "source_moments"]
