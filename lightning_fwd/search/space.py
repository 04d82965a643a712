"""The sparse updates that a search chooses from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from ..graph.blocks import is_norm
from ..methods import SparseUpdate, rewrite

Genome = tuple[int, ...]
"""``(bias depth, option of unit 0, option of unit 1, ...)``: the biases of the last so many units learn; option 0 freezes a unit's weight,
option i trains ``fractions[i - 1]`` of its input channels."""


@dataclass(frozen=True)
class Space:
    """Units (a layer with a weight matrix and the norms behind it), first to last, and what may be trained of each.

    Attributes:
        units: per unit the paths of its modules, the layer first. fractions: ascending.
    """

    units: tuple[tuple[str, ...], ...]
    fractions: tuple[float, ...]

    @classmethod
    def of(cls, net: nn.Module, example_input: Tensor, fractions: Sequence[float] = (0.25, 0.5, 1.0)) -> Space:
        """The space of a model; ``net`` is left as it was."""
        model = rewrite(net, SparseUpdate(train="head"), example_input)
        layers = [path for block in model.plan for path in block.layers]
        model.undo()
        units: list[list[str]] = []
        for path in layers:
            module = net.get_submodule(path)
            if is_norm(module) and units:
                units[-1].append(path)
            elif getattr(module, "weight", None) is not None:
                units.append([path])
        return cls(tuple(map(tuple, units)), tuple(sorted(fractions)))

    @property
    def nothing(self) -> Genome:
        return (0,) * (len(self.units) + 1)

    @property
    def everything(self) -> Genome:
        return (len(self.units), *[len(self.fractions)] * len(self.units))

    @property
    def options(self) -> list[list[int]]:
        """All that may stand at each position of a genome."""
        return [list(range(most + 1)) for most in self.everything]

    def title(self, genome: Genome) -> str:
        """What a genome trains, for people."""
        method = self.method(genome)
        weights = [f"{amount:g} of {path}" for path, amount in method.train.items()]
        return ", ".join(weights + ([] if method.biases == "none" else [f"biases of {', '.join(method.biases)}"]))

    def method(self, genome: Genome) -> SparseUpdate:
        """The sparse update that a genome means; channels by magnitude."""
        train = {u[0]: self.fractions[g - 1] for u, g in zip(self.units, genome[1:], strict=True) if g}
        deep = self.units[len(self.units) - genome[0] :]
        return SparseUpdate(train=train, biases=[path for unit in deep for path in unit] or "none")

    def bias_only(self, depth: int) -> Genome:
        return (depth, *self.nothing[1:])

    def single(self, unit: int, option: int) -> Genome:
        """One unit's weight, and the biases from there to the logits, which cost next to nothing on the way."""
        genome = list(self.bias_only(len(self.units) - unit))
        genome[1 + unit] = option
        return tuple(genome)

    def single_step(self, place: int, option: int) -> Genome:
        """A genome with one position set."""
        return tuple(option if i == place else 0 for i in range(len(self.units) + 1))

    def size(self, options: Sequence[Sequence[int]]) -> int:
        return math.prod(map(len, options))

    def all(self, options: Sequence[Sequence[int]]) -> Iterator[Genome]:
        return product(*options)


def within(a: Genome, b: Genome) -> bool:
    """Whether everything that ``a`` trains is trained by ``b`` too."""
    return all(x <= y for x, y in zip(a, b, strict=True))


def example_batch(x: Tensor) -> tuple[Tensor, Tensor]:
    """One sample and a label, to price a step on."""
    return x[:1], torch.zeros(1, dtype=torch.int64)
