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
    accelerator: str = "auto",
) -> torch.nn.Module:
    """Train in Lightning; returns the network, on the CPU, rewritten where the rule predicts by other means than the model's own.

    Args:
        accelerator: Lightning's name of what trains, one device of it.
    """
    module = Classifier(
        network,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        schedule=training.schedule,
    )
    trainer = L.Trainer(
        max_epochs=training.epochs, strategy=ForwardOnlyStrategy(method, module="network"), accelerator=accelerator, devices=1,
        callbacks=list(callbacks),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    rewritten = module.network
    return unwrap(rewritten) if type(method).predict is LearningMethod.predict else rewritten


def require_accelerator(name: str) -> None:
    """Refuse an accelerator that this computer has not.

    Raises:
        LightningFwdError: naming it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"auto": True, "cpu": True, "cuda": cuda, "mps": mps, "gpu": cuda or mps}[name]:
        raise LightningFwdError(f"accelerator: {name}", "this computer has none that torch can use", "leave it out, or use cpu")


def quiet(seed: int) -> None:
    """One thread per worker process, no banner of Lightning's per fit; :func:`caller_kept` undoes it."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # torch's own, once per worker process
    L.seed_everything(seed, verbose=False)
