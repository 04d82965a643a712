"""Running statistics are written by the forward pass, before the loss is known: kept, so that a refused batch has changed nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class KeptBuffers:
    """Buffers of modules as they were, to be put back or forgotten."""

    def __init__(self) -> None:
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def keep(self, modules: Iterable[nn.Module]) -> None:
        """Note the buffers of these modules, of each only what it holds at first."""
        places = [
            ((m, name), b)
            for m in modules
            for name, b in m._buffers.items()
            if type(b) is Tensor and not b.is_meta and (m, name) not in self._kept
        ]
        if places:
            copies = torch._foreach_mul([b for _, b in places], 1)
            self._kept |= {place: (buffer, copy) for (place, buffer), copy in zip(places, copies, strict=True)}

    @torch.no_grad()
    def put_back(self) -> None:
        for (module, name), (buffer, copy) in self._kept.items():
            module._buffers[name] = buffer.copy_(copy)
        self.forget()

    def forget(self) -> None:
        self._kept = {}
