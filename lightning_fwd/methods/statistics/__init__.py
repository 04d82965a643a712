"""Batch-norm statistics recomputed on the target: forward passes only, no labels, no gradient."""

from .method import Statistics

__all__ = ["Statistics"]
