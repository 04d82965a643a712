"""Double precision wherever a tensor lives."""

from __future__ import annotations

import torch
from torch import Tensor


def in_double(x: Tensor) -> Tensor:
    """The tensor in float64: on its own device, or on the CPU where that device (Apple's GPU) has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)
