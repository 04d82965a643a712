"""Capture any model as a torch.fx graph, find its blocks and layers, run it under a learning rule, and give the original back."""

from ..errors import CaptureError, LightningFwdError, RewriteError, StepError
from .blocks import Block, find_blocks
from .capture import Capture, capture
from .pending import set_labels
from .phase import PHASES, layer, phase
from .rewritten import RewrittenModel
from .step import Logits, Part, Step, StepRecord, Update

__all__ = [
    "PHASES",
    "Part",
    "Block",
    "Capture",
    "CaptureError",
    "LightningFwdError",
    "Logits",
    "RewriteError",
    "RewrittenModel",
    "Step",
    "StepError",
    "StepRecord",
    "Update",
    "capture",
    "find_blocks",
    "layer",
    "phase",
    "set_labels",
]
