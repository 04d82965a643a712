"""Where the example comes from that the network is captured with, if the user gives none: the first batch of training, or the
checkpoint."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..errors import LightningFwdError
from .install import network_of


def is_training_batch(trainer: Trainer) -> bool:
    """Whether the training loop has its data, so that what comes now is drawn by it and not by a callback ahead of it."""
    return trainer.training and trainer.fit_loop._data_fetcher is not None


def refuse_no_example(module: LightningModule) -> NoReturn:
    raise LightningFwdError(
        "no example input to capture the network with",
        f"{type(module).__name__} sets no example_input_array, and the first batch does not tell what its network takes: on several "
        "devices each rank must know before training_step",
        "set self.example_input_array, or give ForwardOnlyStrategy(method, example_input=...)",
    )


def refuse_no_call(module: LightningModule, name: str | None) -> NoReturn:
    network = network_of(module, name)
    raise LightningFwdError(
        f"training_step of {type(module).__name__} computed a loss without calling its network ({type(network).__name__})",
        "a learning rule takes over where the network is called",
        "call the whole network; or name the one that training_step calls: ForwardOnlyStrategy(method, module=...)",
    )


def example_of_checkpoint(saved: dict[str, Any], module: LightningModule) -> Tensor:
    """The example ``(B, ...)`` that the network was captured with, on its device and in its type.

    Raises:
        LightningFwdError: the checkpoint holds none, as those of earlier versions.
    """
    example, like = saved.get("example"), next(module.parameters())
    if not isinstance(example, Tensor):
        raise LightningFwdError(
            "the checkpoint holds what its rule inserted, and no example input to rewrite the network with",
            "it was written by an earlier version",
            "set self.example_input_array, or give ForwardOnlyStrategy(method, example_input=...)",
        )
    return example.to(like) if example.is_floating_point() else example.to(like.device)
