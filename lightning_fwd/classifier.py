"""A LightningModule for recipes; nothing in it knows how it is trained."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from .errors import LightningFwdError
from .models import build


class Classifier(L.LightningModule):
    """Cross-entropy, SGD or Adam, accuracy.

    Args:
        model: a name known to :func:`lightning_fwd.models.build`, an import path of a module class, or a module.
        model_args: arguments of the model's class.
        lr, momentum, weight_decay: of the optimizer; momentum is SGD's.
        optimizer: ``"sgd"`` or ``"adam"``.
        schedule: ``"constant"``, or ``"cosine"`` down to zero over the whole run.
    """

    def __init__(
        self,
        model: str | nn.Module = "mlp",
        model_args: dict[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        optimizer: Literal["sgd", "adam"] = "sgd",
        schedule: Literal["constant", "cosine"] = "constant",
    ):
        super().__init__()
        if isinstance(model, str):
            self.save_hyperparameters()
        self.network = build(model, **(model_args or {})) if isinstance(model, str) else model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.optimizer, self.schedule = optimizer, schedule
        self.accuracy = MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self._loss(self(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        x, y = batch
        logits = self(x)
        loss = self._loss(logits, y)
        self.accuracy((logits.argmax(1) == y).float())
        self.log(f"{stage}/loss", loss)
        self.log(f"{stage}/accuracy", self.accuracy, prog_bar=True)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if int(y.max()) >= logits.shape[1]:
            raise LightningFwdError(
                f"the data has a label {int(y.max())}, the model has {logits.shape[1]} classes",
                "classes are counted from 0",
                "set in model_args the argument of your model that sets its number of outputs, e.g. num_classes",
            )
        return F.cross_entropy(logits, y)

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.network.parameters() if p.requires_grad] or list(self.network.parameters())
        if self.optimizer == "adam":
            optimizer = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
