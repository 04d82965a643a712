"""Lightning callbacks: what each step costs, what a rule learns, and heads fitted to source data."""

from .calibrate_heads import CalibrateHeads
from .diagnosis import Diagnosis
from .step_cost import StepCost

__all__ = ["CalibrateHeads", "Diagnosis", "StepCost"]
