"""Backpropagation: the reference that every other rule is held against."""

from .method import Backprop

__all__ = ["Backprop"]
