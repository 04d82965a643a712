"""Forward-Forward: a positive and a negative pass instead of a forward and a backward one (Hinton 2022, arXiv 2212.13345)."""

from .method import ForwardForward

__all__ = ["ForwardForward"]
