"""The way back through a convolution with a stride: one small convolution for every phase, their results interleaved.

A convolution with a stride of 2 reads every second position, so on the way back every position of its input hears from a part of the kernel
only: which part depends on whether its row and column are even or odd. Each of the four parts is a convolution of the error as it is, and
together they multiply as often as the kernel has weights. Spreading the error with zeros between its positions would multiply four times as
often. Interleaving is no work where channels come last: channels side by side, read as columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Strided:
    """An error that has to go back through a convolution with a stride, not computed yet.

    Attributes:
        path: of that convolution. error: at its output, ``(B, C, *size)``.
        begin: rows and columns that are cut away from the convolution's input before position 0 of what is wanted.
    """

    path: str
    layer: nn.Conv2d
    error: fx.Node
    size: tuple[int, int]
    begin: tuple[int, int] = (0, 0)

    def cut(self, begin: tuple[int, int]) -> Strided:
        """The same behind a padding that put ``begin`` rows and columns before the map."""
        return replace(self, begin=(self.begin[0] + begin[0], self.begin[1] + begin[1]))

    def phases(self) -> dict[tuple[int, int], nn.Conv2d]:
        """By remainder of row and column: the convolution whose result at ``(i, j)`` is the error at
        ``(i * stride + row, j * stride + column)``; remainders that hear nothing are left out."""
        found = {}
        for phase in product(*map(range, self.layer.stride)):
            taps = [self._taps(axis, remainder) for axis, remainder in enumerate(phase)]
            if all(taps):
                found[phase] = _part(self.layer, taps)
        return found

    def _taps(self, axis: int, remainder: int) -> dict[int, int]:
        """Distance of the position of the error that is read -> the kernel's row or column that it is multiplied by."""
        stride, kernel = self.layer.stride[axis], self.layer.kernel_size[axis]
        first = remainder + self.begin[axis] + padding_of(self.layer)[axis]
        return {(first - k) // stride: k for k in range(kernel) if (first - k) % stride == 0}


def padding_of(layer: nn.Conv2d) -> tuple[int, ...]:
    """Rows and columns of padding before a map, also where they are given in words: ``"same"``, which may put one more behind it."""
    if layer.padding == "valid":
        return (0, 0)
    return tuple((k - 1) // 2 for k in layer.kernel_size) if layer.padding == "same" else layer.padding


def _part(layer: nn.Conv2d, taps: list[dict[int, int]]) -> nn.Conv2d:
    """Those weights of a kernel, towards its input, as a convolution that keeps the size of a map."""
    reach = [max(map(abs, axis)) for axis in taps]
    kernel = tuple(2 * n + 1 for n in reach)
    part = nn.Conv2d(layer.out_channels, layer.in_channels, kernel, padding=tuple(reach), groups=layer.groups).requires_grad_(False)
    nn.init.zeros_(part.weight)
    nn.init.zeros_(part.bias)
    weight = layer.weight.detach() if layer.groups > 1 else layer.weight.detach().transpose(0, 1)
    for (row, y), (column, x) in product(*(axis.items() for axis in taps)):
        part.weight[:, :, reach[0] + row, reach[1] + column] = weight[:, :, y, x]
    return part


def interleave(graph: fx.Graph, phases: Mapping[tuple[int, int], fx.Node], stride: tuple[int, int]) -> fx.Node:
    """One map of the phases, ``(B, C, n, m)`` each: ``(B, C, n * rows, m * columns)``. Phases that are missing are zero."""
    rows, there = [], next(iter(phases.values()))
    for row in range(stride[0]):
        row_of = [phases.get((row, column)) or graph.call_function(torch.zeros_like, (there,)) for column in range(stride[1])]
        last = [graph.call_method("permute", (phase, 0, 2, 3, 1)) for phase in row_of]
        rows.append(graph.call_function(side_by_side, (last, 3)))
    return graph.call_method("permute", (graph.call_function(side_by_side, (rows, 2)), 0, 3, 1, 2))


def side_by_side(maps: list[Tensor], dim: int) -> Tensor:
    """``(B, n, m, C)`` each, put side by side along an axis and read as the axis before: columns for ``dim`` 3, rows for 2."""
    shape = list(maps[0].shape)
    shape[dim - 1] *= len(maps)
    return torch.cat(maps, dim).reshape(shape) if len(maps) > 1 else maps[0]
