"""Where the example comes from that the network is captured with, if the user gives none: the first batch of training, or the
checkpoint."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..errors import LightningFwdError


def is_training_batch(trainer: Trainer) -> bool:
    """Whether the training loop has its data, so that what comes now is drawn by it and not by a callback ahead of it."""
    return trainer.training and trainer.fit_loop._data_fetcher is not None


def refuse_no_example(module: LightningModule) -> NoReturn:
    raise LightningFwdError(
        "no example input to capture the network with",
        f"{type(module).__name__} sets no example_input_array, and no batch came by before training_step (it takes dataloader_iter, or "
        "it was called "
        "by hand)",
        "set self.example_input_array, or give ForwardOnlyStrategy(method, example_input=...)",
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
