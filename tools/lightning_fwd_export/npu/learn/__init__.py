"""What the CPU beside the NPU computes while it learns, in the arithmetic of the device: float32, one operation after the other.

The C that is exported does the same operations in the same order, so that both come to the same records, bit for bit.
"""

from .context import ContextForwardForward
from .guard import Guard
from .head import Head
from .learner import NpuLearner
from .trainer import NpuTrainer
from .zeroth_order import ZerothOrder

__all__ = ["ContextForwardForward", "Guard", "Head", "NpuLearner", "NpuTrainer", "ZerothOrder"]
