"""What a rewrite stores in the place of a plain model's tensor, where the numbers mean something else: under a name of its own, with the
way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StoredAs:
    """One transformed tensor: ``plain = (stored - offset) * factor``, with exponents per row ``* 2 ** -exponents``.

    Attributes:
        name: of what is stored; under an inserted module's path, so that no plain ``load_state_dict`` takes it for the plain tensor.
        factor, offset: broadcast against the tensor.
        exponents: name of the stored tensor that holds them, int8 ``(out,)``; "" for none.
        index: where the inputs (dimension 1) alone are stored that learn: which they are.
    """

    name: str
    factor: Tensor
    offset: Tensor
    exponents: str = ""
    index: Tensor | None = None

    def plain(self, stored: Tensor, exponents: Tensor | None = None) -> Tensor:
        """What the stored tensor is in the plain model, in float32."""
        value = (stored.float() - self.offset) * self.factor
        if exponents is not None:
            value = value * torch.exp2(-exponents.float()).reshape(-1, *[1] * (value.ndim - 1))
        return value


def stored_as(model: nn.Module) -> dict[str, StoredAs]:
    """The plain tensor's name to what stands for it: every inserted module that changes what a tensor means has a method ``stored_as``."""
    said: dict[str, StoredAs] = {}
    for module in model.modules():
        if callable(tell := getattr(module, "stored_as", None)):
            said |= tell()
    return said
