"""Sparse training: few weights at any time, whose places move (SET, RigL)."""

from .method import SparseTraining, allocate

__all__ = ["SparseTraining", "allocate"]
