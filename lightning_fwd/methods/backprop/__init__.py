"""Backpropagation: the reference that every other rule is held against."""

from .method import Backprop, gradients

__all__ = ["Backprop", "gradients"]
