"""One training run in Lightning, as a comparison's pretraining and adaptation and a search's pretraining need it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Literal

import lightning as L
import torch

from ..classifier import Classifier
from ..errors import LightningFwdError
from ..methods import LearningMethod
from ..settings import check_settings
from ..strategies import ForwardOnlyStrategy, unwrap


@dataclass
class Training:
    """One training run: SGD with momentum.

    Args:
        epochs, batch_size, lr, momentum, weight_decay: as usual.
        schedule: ``"constant"`` or ``"cosine"``.
    """

    epochs: int = 20
    batch_size: int = 32
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        check_settings(self, LightningFwdError, ("epochs", "batch_size", "lr"), ("momentum", "weight_decay"))


def fit(
    network: torch.nn.Module,
    method: LearningMethod,
    data: L.LightningDataModule,
    training: Training,
    *callbacks: L.Callback,
) -> torch.nn.Module:
    """Train in Lightning; returns the network, rewritten where the rule predicts by other means than the model's own."""
    module = Classifier(
        network,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        schedule=training.schedule,
    )
    trainer = L.Trainer(
        max_epochs=training.epochs, strategy=ForwardOnlyStrategy(method, module="network"), accelerator="cpu", callbacks=list(callbacks),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    rewritten = module.network
    return unwrap(rewritten) if type(method).predict is LearningMethod.predict else rewritten


def quiet(seed: int) -> None:
    """One thread per worker process, no banner of Lightning's per fit."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # torch's own, once per worker process
    L.seed_everything(seed, verbose=False)
