"""Runs what Vela wrote for an Ethos-U55 (its command stream and constants, nothing else), bit for bit, on a batch of images at once.

It is built from the register names in the Vela package and held against the TOSA reference model; it is not Arm's model, it knows no time,
and what it does not know it refuses.
"""

from .machine import Simulator

__all__ = ["Simulator"]
