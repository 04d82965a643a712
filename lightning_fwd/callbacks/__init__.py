"""Lightning callbacks: what each step costs."""

from .step_cost import StepCost

__all__ = ["StepCost"]
