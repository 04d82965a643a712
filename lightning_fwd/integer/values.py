"""What the lowering knows of each value of the float step while it writes the integer step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

Exponent = fx.Node | int  #: of a value: a node that computes it, or a number known beforehand


@dataclass(frozen=True)
class Value:
    """``q * factor * 2**-exponent`` with q an integer node.

    Attributes:
        kind: ``"activation"`` int8, ``"sum"`` int32, ``"error"`` int16.
        factor: of a mean, of a rate: carried along until something multiplies anyway.
        mask: int8 activation of a ReLU, where a sum of a backward pass is yet to be masked.
        learned: whether it depends on anything that the step trains.
        back: whether a sum is one of errors.
    """

    node: fx.Node
    exponent: Exponent
    kind: str
    factor: float = 1.0
    mask: fx.Node | None = None
    learned: bool = False
    back: bool = False

    @property
    def is_error(self) -> bool:
        return self.kind == "error" or self.back

    def times(self, factor: float) -> Value:
        return replace(self, factor=self.factor * factor)

    def on(self, node: fx.Node) -> Value:
        """The same scale, at another node (a view, say)."""
        return replace(self, node=node)


@dataclass(frozen=True)
class Gradient:
    """A parameter's gradient, never computed: what its update takes instead.

    Attributes:
        error: of the layer's output. x: of its input, None for a bias. geometry: of a convolution, None of a linear layer.
    """

    error: Value
    x: Value | None = None
    geometry: tuple | None = None

    def times(self, factor: float) -> Gradient:
        return replace(self, error=self.error.times(factor))


@dataclass(frozen=True)
class Transposed:
    """A permutation that a matrix product takes in its stride: of a weight's placeholder, or of an error."""

    of: fx.Node | Value


@dataclass(frozen=True)
class NotPositive:
    """``y <= 0`` of a ReLU's activation, or its packed complement."""

    of: Value


@dataclass(frozen=True)
class OneHot:
    """Class weights ``(B, C)`` of labels, which are an integer node."""

    labels: fx.Node
