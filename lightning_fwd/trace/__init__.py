"""The step graph: one training step, or one inference, as a flat aten graph. What trains is what is priced and what is shipped."""

from .optimizers import OPTIMIZERS, get_optimizer, of_torch
from .round_end import trace_round_end
from .step_graph import COUNTER, StepGraph, trace_inference, trace_step

__all__ = ["COUNTER", "OPTIMIZERS", "StepGraph", "get_optimizer", "of_torch", "trace_inference", "trace_round_end", "trace_step"]
