"""Local losses: every block learns from a loss of its own; no error crosses a block."""

from .method import LocalLoss

__all__ = ["LocalLoss"]
