"""Running statistics are written by the forward pass, before the loss is known: kept, so that a refused batch has changed nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class KeptBuffers:
    """Buffers of modules as they were, to be put back or forgotten."""

    def __init__(self) -> None:
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}

    def keep(self, modules: Sequence[nn.Module]) -> None:
        """Note the buffers of these modules, of each only what it holds at first."""
        if modules:  # most networks without batch norm have none, and a decorated call takes longer than the question
            self._keep(modules)

    @torch.no_grad()
    def _keep(self, modules: Sequence[nn.Module]) -> None:
        for module in modules:
            for name, buffer in module._buffers.items():
                if type(buffer) is Tensor and not buffer.is_meta and (module, name) not in self._kept:
                    self._kept[module, name] = buffer, buffer.clone()

    @torch.no_grad()
    def put_back(self) -> None:
        for (module, name), (buffer, copy) in self._kept.items():
            buffer.copy_(copy)
            if not isinstance(module, torch.jit.ScriptModule):  # whose buffers cannot be exchanged
                module._buffers[name] = buffer
        self.forget()

    def forget(self) -> None:
        self._kept = {}
