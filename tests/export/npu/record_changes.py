"""Random changes of a network's biases, multipliers and shifts, as TOSA has them."""

import numpy as np
from lightning_fwd_export.npu.find_records import LayerRecords, wanted_records
from lightning_fwd_export.npu.records import Record
from lightning_fwd_export.npu.tosa_graph import TosaGraph


def changed(tosa: bytes, rng: np.random.Generator, share: float, layers: tuple[LayerRecords, ...]):
    """The graph with other constants in about ``share`` of its channels, and the records that then are due."""
    graph = TosaGraph(tosa)
    for convolution in graph.convolutions():
        bias, multiplier, shift = (graph.constant(n) for n in (convolution.bias, convolution.multiplier, convolution.shift))
        where = rng.random(bias.shape) < share
        bias[where] += rng.integers(-(2**16), 2**16, where.sum()).astype(np.int32)
        multiplier[where] = np.clip(multiplier[where] * rng.uniform(0.5, 1, where.sum()), 2**29, 2**31 - 1).astype(np.int32)
        shift[where] = np.clip(shift[where] + rng.integers(-1, 2, where.sum()), 2, 60)
    due: dict[LayerRecords, list[Record]] = {layer: wanted_records(graph, layer.convolution) for layer in layers}
    return bytes(graph), due
