"""Which calls of its network a training_step makes."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class NetworkCalls:
    """Notes the calls of one network that training_step makes, not those of callbacks, of validation or of a copy.

    Attributes:
        seen: of each call the network's input, None where no tensor is among its arguments, and whether gradients follow it.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor | None, bool]] = []
        self._network: nn.Module | None = None
        self._hook: Any = None

    def watch(self, network: nn.Module, pl_module: LightningModule) -> None:
        """From now on, this network; forgets the calls so far. One hook for all steps: a compiled network is not compiled anew."""
        self.seen.clear()
        if network is self._network:
            return
        self.stop()

        def see(module: nn.Module, args: tuple, named: dict) -> None:
            if module is self._network and pl_module._current_fx_name == "training_step":
                x = next((value for value in (*args, *named.values()) if isinstance(value, Tensor)), None)
                self.seen.append((x, torch.is_grad_enabled()))

        self._network, self._hook = network, network.register_forward_pre_hook(see, with_kwargs=True)

    def stop(self) -> None:
        """Watch none."""
        if self._hook is not None:
            self._hook.remove()
        self._network = self._hook = None
