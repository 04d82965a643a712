"""Lightning callbacks: what each step costs, and heads fitted to source data."""

from .calibrate_heads import CalibrateHeads
from .step_cost import StepCost

__all__ = ["CalibrateHeads", "StepCost"]
