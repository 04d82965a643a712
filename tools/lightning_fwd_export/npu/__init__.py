"""An inference-only NPU (Arm Ethos-U): what a forward pass takes there, and how it learns although it only infers."""

from .estimate import ACCELERATORS, NpuForward, npu_forward, write_profile

__all__ = ["ACCELERATORS", "NpuForward", "npu_forward", "write_profile"]
