"""Direct feedback alignment: the error at the output reaches every block at once, through a fixed matrix of its own."""

from .rule import DirectFeedback

__all__ = ["DirectFeedback"]
