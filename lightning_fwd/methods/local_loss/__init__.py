"""Local losses: every block learns from a loss of its own; no error crosses a block."""

from .gradients import local_gradients
from .heads import ChannelGroups, ProjectionHead
from .method import LocalLoss

__all__ = ["ChannelGroups", "LocalLoss", "ProjectionHead", "local_gradients"]
