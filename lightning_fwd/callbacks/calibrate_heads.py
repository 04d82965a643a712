"""Fit a rule's heads to source data before the first step of adaptation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from typing_extensions import override

from ..methods.calibrate import calibrate
from ..strategies import TrainsByRule


class CalibrateHeads(Callback):
    """Call :func:`lightning_fwd.methods.calibrate.calibrate` with source data before the first step; a resumed fit is left alone.

    Args:
        source: a data module whose training part is the source, or any iterable of ``(input, target)`` batches.

    Example:
        >>> Trainer(strategy="local_loss", callbacks=[CalibrateHeads(DriftDataModule("fashion_mnist"))])
    """

    def __init__(self, source: LightningDataModule | Any):
        self.source, self._done = source, False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._done = False
        if isinstance(trainer.strategy, TrainsByRule) and trainer.strategy.rewritten is not None:
            self._calibrate(trainer.strategy)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if isinstance(trainer.strategy, TrainsByRule) and not self._done:  # rewritten by the first batch
            self._calibrate(trainer.strategy)

    def _calibrate(self, strategy: TrainsByRule) -> None:
        self._done = True
        if strategy.network.has_learned:
            return
        batches = self.source
        if isinstance(batches, LightningDataModule):
            batches.prepare_data()
            batches.setup("fit")
            batches = batches.train_dataloader()
        on_device = ((strategy.input_of(b), strategy.target_of(b)) for b in map(strategy.batch_to_device, batches))
        calibrate(strategy.network, on_device)
