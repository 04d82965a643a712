"""The memory regions of a program, and feature maps in them as the registers describe them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..binary import ARENA

#: channels that lie together
_BRICK = 16


class NotSimulated(NotImplementedError):
    """The command stream asks for something that the simulator does not know."""


def signed(value: int) -> int:
    """A 16-bit register's value as a signed number."""
    return (value & 0xFFFF) - ((value & 0x8000) << 1)


class Memory:
    """One arena per image, and regions that all images share.

    Args:
        regions: constants and tables by their region's number.
        arena: bytes of the working memory.
        batch: images that run at the same time.
    """

    def __init__(self, regions: Mapping[int, bytearray | bytes], arena: int, batch: int):
        self.regions, self.batch = regions, batch
        self.arena = torch.zeros(batch, arena + _BRICK, dtype=torch.int8)  # a brick of channels may end behind the last byte

    def constant(self, region: int, base: int, length: int) -> bytes:
        """Bytes that are the same for all images."""
        if region == ARENA:
            return self.arena[0, base : base + length].numpy().tobytes()
        return bytes(self.regions[region][base : base + length])

    def copy(self, r: Mapping[str, int]) -> None:
        """The DMA that the registers describe; it writes to the arena."""
        source, target = r["DMA0_SRC_REGION"] & 0xFF, r["DMA0_DST_REGION"] & 0xFF
        if target != ARENA or r["DMA0_SRC_REGION"] >> 8 or r["DMA0_DST_REGION"] >> 8:
            raise NotSimulated(f"a DMA from region {r['DMA0_SRC_REGION']:#x} to {r['DMA0_DST_REGION']:#x}")
        start, at, length = r["DMA0_SRC"], r["DMA0_DST"], r["DMA0_LEN"]
        if source == ARENA:
            data = self.arena[:, start : start + length].clone()
        else:
            data = torch.from_numpy(np.frombuffer(self.constant(source, start, length), np.int8).copy())
        self.arena[:, at : at + length] = data

    def read(self, r: Mapping[str, int], name: str, height: int, width: int, depth: int, dtype: torch.dtype) -> Tensor:
        """Input feature map ``name`` ("IFM" or "IFM2") as ``(B, H, W, C)``, its zero point taken off."""
        precision = r[f"{name}_PRECISION"]
        if precision >> 2 & 3 or not precision & 1:
            raise NotSimulated(f"{name}_PRECISION {precision:#x}: int8 only")
        stored = self._map(r, name, precision, height, width, depth)
        values = stored.to(dtype, memory_format=torch.contiguous_format, copy=True).sub_(signed(r[f"{name}_ZERO_POINT"]))
        return values if values.dim() == 4 else values.flatten(3)[..., :depth]

    def write(self, r: Mapping[str, int], values: Tensor) -> None:
        """Output feature map from ``(B, H, W, C)`` without zero point: clamped and stored as int8. ``values`` is changed."""
        precision = r["OFM_PRECISION"]
        if precision >> 1 & 3 or not precision & 1 or r["ACTIVATION"] & 0xFF:
            raise NotSimulated(f"OFM_PRECISION {precision:#x}, ACTIVATION {r['ACTIVATION']:#x}: int8 without a table only")
        zero_point = signed(r["OFM_ZERO_POINT"])
        low, high = max(-128, signed(r["ACTIVATION_MIN"])), min(127, signed(r["ACTIVATION_MAX"]))
        values = values.clamp_(low - zero_point, high - zero_point).to(torch.int8).add_(zero_point)  # int8 wraps around, and back
        stored = self._map(r, "OFM", precision, *values.shape[1:])
        if stored.dim() == 4:
            stored.copy_(values)
            return
        for brick, part in enumerate(values.split(_BRICK, dim=-1)):
            stored[..., brick, : part.shape[-1]].copy_(part)

    def _map(self, r: Mapping[str, int], name: str, precision: int, height: int, width: int, depth: int) -> Tensor:
        """A view of int8 ``(B, H, W, C)``, rows one after the other, or of bricks of 16 channels ``(B, H, W, C / 16, 16)``; the last may be
        used in part."""
        if height > r[f"{name}_HEIGHT0_M1"] + 1 or width > r[f"{name}_WIDTH0_M1"] + 1:
            raise NotSimulated(f"{name} of {height}x{width} in several tiles")
        base, x, y, c = (r[f"{name}_{register}"] for register in ("BASE0", "STRIDE_X", "STRIDE_Y", "STRIDE_C"))
        region = r[f"{name}_REGION"]
        if region == ARENA:
            memory, batch, step = self.arena, self.batch, self.arena.shape[1]
        else:  # a constant operand
            memory, batch, step = torch.from_numpy(np.frombuffer(bytes(self.regions[region]) + bytes(_BRICK), np.int8).copy()), 1, 0
        if precision >> 6 & 3 == 1:
            return memory.as_strided((batch, height, width, -(-depth // _BRICK), _BRICK), (step, y, _BRICK, c, 1), base)
        return memory.as_strided((batch, height, width, depth), (step, y, x, 1), base)
