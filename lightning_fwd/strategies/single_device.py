"""The strategy on one device, which becomes the one for several when Lightning tells it of more."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from ..errors import LightningFwdError
from .distributed import ForwardOnlyDDPStrategy, distribute
from .forward_only import TrainsByRule


class ForwardOnlyStrategy(TrainsByRule, SingleDeviceStrategy):
    """Train with a learning rule instead of backpropagation, on one CPU or GPU; with more devices or nodes, as a
    :class:`ForwardOnlyDDPStrategy`.

    Args: see :class:`TrainsByRule`.

    Example:
        >>> Trainer(strategy="pepita")
        >>> Trainer(strategy=ForwardOnlyStrategy(ForwardForward(goodness="sum")))
    """

    strategy_name = "forward_only"
    cluster_environment: Any = None
    _parallel_devices: list[torch.device] | None = None

    # Lightning builds a strategy given by name without a device, and tells it the devices and nodes here.

    @property
    def parallel_devices(self) -> list[torch.device] | None:
        return self._parallel_devices

    @parallel_devices.setter
    def parallel_devices(self, devices: list[torch.device] | None) -> None:
        self._parallel_devices = devices
        if len(devices or []) > 1:
            self._distribute()
        elif devices:
            self._root_device = devices[0]

    @property
    def num_nodes(self) -> int:
        return 1

    @num_nodes.setter
    def num_nodes(self, nodes: int) -> None:
        if nodes > 1:
            self._distribute().num_nodes = nodes

    def _distribute(self) -> ForwardOnlyDDPStrategy:
        """Become the strategy for several.

        Raises:
            LightningFwdError: this is of a class of the user's, which would be lost.
        """
        if type(self) is not ForwardOnlyStrategy:
            raise LightningFwdError(
                f"{type(self).__name__} with several devices or nodes",
                "it is built on ForwardOnlyStrategy, which is for one",
                "build it on ForwardOnlyDDPStrategy, or use Trainer(devices=1, num_nodes=1)",
            )
        return distribute(self, self.parallel_devices, self.cluster_environment)
