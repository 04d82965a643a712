"""The order in which an Ethos-U reads a convolution's weights, and weights back from Vela's compressed stream."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: channels that one pass of the MAC array takes and makes (micro-block depth of input and output), by accelerator
MICRO_BLOCKS = {"ethos-u55-32": (8, 4), "ethos-u55-64": (8, 8), "ethos-u55-128": (8, 8), "ethos-u55-256": (8, 8)}
#: a larger kernel is taken in parts of that many rows and columns
_SUB_KERNEL = 8


@lru_cache(maxsize=256)
def stream_order(
    accelerator: str, out_channels: int, kernel: tuple[int, int], in_channels: int, block_depth: int, depthwise: bool, part_kernel: bool
) -> np.ndarray:
    """Per weight of the stream: its index in ``(out, height, width, in)`` order, or -1 for one that only fills up.

    After ``mlw_encode.c`` of the Vela package.

    Args:
        block_depth: output channels that the operation makes at a time.
        depthwise: one input channel per output channel.
        part_kernel: the kernel runs faster than the input channels.
    """
    in_micro, out_micro = MICRO_BLOCKS[accelerator]
    height, width = kernel
    in_block = 16 if part_kernel else 32
    pieces = []
    for out0 in range(0, out_channels, block_depth):
        outs = np.arange(0, min(block_depth, out_channels - out0), out_micro)
        for in0 in range(0, 1 if depthwise else in_channels, in_block):
            depth = in_micro if depthwise else min(in_block, in_channels - in0) if part_kernel else in_block
            ins = np.arange(0, depth, in_micro)
            for y0 in range(0, height, _SUB_KERNEL):
                rows = min(height - y0, _SUB_KERNEL)
                for x0 in range(0, width, _SUB_KERNEL):
                    columns = min(width - x0, _SUB_KERNEL)
                    elements = rows * columns
                    element = np.arange(-(-elements // 4) * 4 if part_kernel or depthwise else elements)
                    first, last = (ins, ins[:1]) if part_kernel else (ins[:1], ins)
                    i_outer, o_outer, e, i_inner, o, i = np.ix_(
                        first, outs, element, last, np.arange(out_micro), np.arange(1 if depthwise else in_micro)
                    )
                    channel_in, channel_out = in0 + i_outer + i_inner + i, out0 + o_outer + o
                    y, x = e // columns, e % columns
                    index = ((channel_out * height + y0 + y) * width + x0 + x) * in_channels + channel_in
                    there = (channel_in < in_channels) & (channel_out < out_channels) & (y < rows)
                    pieces.append(np.where(there, index, -1).ravel())
    return np.concatenate(pieces)


def decode_weights(data: bytes, order: np.ndarray, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Weights ``(out, height, width, in)`` of a compressed stream.

    Raises:
        ValueError: the stream holds a weight where only filling may stand.
    """
    from ethosu import mlw_codec

    stream = np.array(mlw_codec.decode(bytearray(data)), np.int16)
    if len(stream) < len(order) or stream[len(order) :].any() or stream[: len(order)][order < 0].any():
        raise ValueError(f"a stream of {len(stream)} weights does not fit a convolution {shape}")
    weights = np.zeros(int(np.prod(shape)), np.int16)
    weights[order[order >= 0]] = stream[: len(order)][order >= 0]
    return weights.reshape(shape)
