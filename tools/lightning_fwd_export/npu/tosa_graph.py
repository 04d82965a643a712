"""A TOSA 1.0 flatbuffer: its operators, and its constants, which can be overwritten in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_DTYPES = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "BOOL": np.bool_}


@dataclass(frozen=True)
class Operator:
    """``name`` as TOSA has it (``CONV2D``), and the names of its tensors."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Convolution:
    """A convolution with the requantisation behind it: the names of the constants that the NPU keeps as records.

    Attributes:
        output: the int32 tensor between the two; its name identifies the convolution.
        result: the int8 tensor behind the requantisation.
        channels: output channels.
        zero_point: of the int8 result.
    """

    output: str
    result: str
    weight: str
    bias: str
    multiplier: str
    shift: str
    channels: int
    zero_point: int
    depthwise: bool


class TosaGraph:
    """The one block of a TOSA graph.

    Args:
        data: the flatbuffer; it is copied, so that :meth:`constant` can be written to.
    """

    def __init__(self, data: bytes):
        from tosa import DType, Op
        from tosa.TosaGraph import TosaGraph as Flatbuffer

        self._buffer = bytearray(data)
        block = Flatbuffer.GetRootAs(self._buffer, 0).Regions(0).Blocks(0)
        dtypes = {v: k for k, v in vars(DType.DType).items() if not k.startswith("_")}
        names = {v: k for k, v in vars(Op.Op).items() if not k.startswith("_")}
        self._tensors = {t.Name().decode(): t for t in map(block.Tensors, range(block.TensorsLength()))}
        self._dtypes = {name: dtypes[t.Type()] for name, t in self._tensors.items()}
        self.inputs = tuple(block.Inputs(i).decode() for i in range(block.InputsLength()))
        self.outputs = tuple(block.Outputs(i).decode() for i in range(block.OutputsLength()))
        self.operators = tuple(
            Operator(
                names[op.Op()],
                tuple(op.Inputs(k).decode() for k in range(op.InputsLength())),
                tuple(op.Outputs(k).decode() for k in range(op.OutputsLength())),
            )
            for op in map(block.Operators, range(block.OperatorsLength()))
        )

    def __bytes__(self) -> bytes:
        return bytes(self._buffer)

    def shape(self, tensor: str) -> tuple[int, ...]:
        flat = self._tensors[tensor]
        return tuple(flat.Shape(k) for k in range(flat.ShapeLength()))

    def constant(self, tensor: str) -> np.ndarray:
        """A constant's values, as a view of the flatbuffer: writing to it changes the graph."""
        raw = self._tensors[tensor].DataAsNumpy()
        shape = self.shape(tensor)
        return raw.view(_DTYPES[self._dtypes[tensor]])[: int(np.prod(shape))].reshape(shape)

    def convolutions(self) -> Iterator[Convolution]:
        """Every convolution with its requantisation, in the order of the graph. A linear layer is a 1x1 convolution here."""
        rescale_of = {op.inputs[0]: op for op in self.operators if op.name == "RESCALE"}
        for op in self.operators:
            if op.name not in ("CONV2D", "DEPTHWISE_CONV2D"):
                continue
            rescale = rescale_of[op.outputs[0]]
            yield Convolution(
                output=op.outputs[0],
                result=rescale.outputs[0],
                weight=op.inputs[1],
                bias=op.inputs[2],
                multiplier=rescale.inputs[1],
                shift=rescale.inputs[2],
                channels=self.shape(op.outputs[0])[-1],
                zero_point=int(self.constant(rescale.inputs[4])[0]),
                depthwise=op.name == "DEPTHWISE_CONV2D",
            )
