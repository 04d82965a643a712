"""Learning in integers: a rule's step lowered to int8 activations, int16 masters and int32 sums; the same bits in Python and without an
FPU."""

from .lower_step import IntegerStep, lower_step
from .price import integer_cost
from .rule import IntegerRule
from .settings import Integer

__all__ = ["Integer", "IntegerRule", "IntegerStep", "integer_cost", "lower_step"]
