"""A LightningModule for recipes; nothing in it knows how it is trained."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from .errors import LightningFwdError
from .graph.capturable import require_one_input
from .models import build


class CosineOverTheRun(torch.optim.lr_scheduler.CosineAnnealingLR):
    """Down to zero over the present run: a checkpoint of a shorter or longer one brings the step it had reached, not its length."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ever, at the rate that this step has in a run of this one's length; comes after the optimizer's own state."""
        steps = self.T_max
        super().load_state_dict(state_dict)
        if self.T_max == steps:  # resumed as it was: the rate as stored, to the bit
            return
        self.T_max = steps
        share = (1 + math.cos(math.pi * min(1.0, self.last_epoch / steps))) / 2
        self._last_lr = [self.eta_min + (base - self.eta_min) * share for base in self.base_lrs]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def _check(**rates: float) -> None:
    for name, value in rates.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise LightningFwdError(f"Classifier: {name}={value!r}", "", "give a number from 0")


def cannot_take(shape: tuple[int, ...], error: Exception) -> LightningFwdError:
    """What to raise where a network's forward raises ``error`` at samples of this shape."""
    return LightningFwdError(
        f"the model cannot take the data's samples {shape}: {type(error).__name__}: {error}",
        "",
        "choose a model for this shape (model_args), or data for this model (flatten: true gives (F,))",
    )


class Classifier(L.LightningModule):
    """Cross-entropy, SGD or Adam, accuracy.

    Args:
        model: a name known to :func:`lightning_fwd.models.build`, an import path of a module class, or a module.
        model_args: arguments of the model's class.
        lr, momentum, weight_decay: of the optimizer; momentum is SGD's.
        optimizer: ``"sgd"`` or ``"adam"``.
        schedule: ``"constant"``, or ``"cosine"`` down to zero over the whole run.

    Raises:
        LightningFwdError: a rate is no number from 0, or the model cannot be made.
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
        _check(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if isinstance(model, str):
            self.save_hyperparameters()
        self.network = build(model, **(model_args or {})) if isinstance(model, str) else model
        require_one_input(self.network)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.optimizer, self.schedule = optimizer, schedule
        self.accuracy = MeanMetric()
        self._fits = False  # whether the network has taken samples of the data
        self._random: dict[str, Tensor] | None = None  # from a checkpoint: generators of random numbers (dropout), until the first step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside the weights, where the generators of random numbers are: a fit that is resumed draws on where it stopped."""
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get("random")
        if self._random is not None:
            torch.Generator().set_state(self._random["cpu"].cpu())  # that it is one, before anything is trained

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Go on with the checkpoint's random numbers; of several processes one's alone were stored."""
        if self._random is not None and self.trainer.world_size == 1:
            torch.set_rng_state(self._random["cpu"].cpu())
            if "cuda" in self._random and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random["cuda"].cpu(), self.device)
        self._random = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of samples (B, ...).

        Raises:
            LightningFwdError: the network fails on the first samples that it is given: they do not fit one another.
        """
        if self._fits:
            return self.network(x)
        try:
            logits = self.network(x)
        except (LightningFwdError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:  # torch's own, of shapes and kinds of numbers
            raise cannot_take(tuple(x.shape[1:]), error) from error
        self._fits = True
        return logits

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
        of = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if not isinstance(of, tuple) or (*of[:1], *of[2:]) != tuple(y.shape):
            raise LightningFwdError(
                f"the model gives {of}, the labels are {tuple(y.shape)}",
                "logits (B, C) are needed, one for each class, and a label for each sample (B,)",
                "end the model in a layer that gives them, e.g. nn.Flatten and nn.Linear; or correct the data",
            )
        least, most = torch.stack([y.min(), y.max()]).tolist()  # one read of the device, not two
        if least < 0:
            raise LightningFwdError(
                f"the data has a label {least}",
                "classes are counted from 0, and a negative number is none",
                "leave samples without a label out of the data, or give them a class of their own",
            )
        if most >= logits.shape[1]:
            raise LightningFwdError(
                f"the data has a label {most}, the model has {logits.shape[1]} classes",
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
        cosine = CosineOverTheRun(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
