"""What a training step costs: its graph traced, priced by phase and layer, scheduled, and held against a device."""

from ..trace.step_graph import StepGraph, trace_inference, trace_step
from .device import Device, device_names, load_device
from .ledger import device_for, price, step_cost
from .report import CostReport

__all__ = [
    "CostReport",
    "Device",
    "StepGraph",
    "device_for",
    "device_names",
    "load_device",
    "price",
    "step_cost",
    "trace_inference",
    "trace_step",
]
