"""Watch a rule learn, layer by layer, beside backpropagation and beside frozen features."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor, nn
from typing_extensions import override

from ...errors import LightningFwdError, StepError
from ...graph.constants import is_inserted
from ...graph.rewritten import RewrittenModel
from ...strategies import TrainsByRule
from .calls import Calls
from .frozen_control import FrozenControl
from .reference_gradient import ReferenceGradient
from .report import GainLine, LayerLine, angle, append, begin, by_layer, plot, relative_changes, table


class Diagnosis(Callback):
    """Whether a rule learns features: three measurements, for every rule alike.

    Every ``every_n_steps`` batches, per layer: the **angle** between the rule's gradient and backpropagation's on the same batch (90
    degrees: nothing
    in common), and the **relative change** ``|W - W_0| / |W_0|`` since the start. And the **gain over frozen features**: accuracy on the
    validation and test data minus that of a copy whose features stay as they began and whose last layer learns from the same batches.
    A rule that does not beat that copy learns no features, whatever its accuracy. Steps are counted in batches, of which an optimizer step
    may accumulate several; the copy accumulates as the run does.

    Training is the same with and without it, bit for bit. A measured step costs one forward and one backward pass more, the control one
    forward pass in every step.

    Logs ``diagnosis/angle/LAYER`` (degrees), ``diagnosis/change/LAYER``, and ``diagnosis/{accuracy,frozen_accuracy,gain}/STAGE`` (percent).
    Writes ``diagnosis.csv``, ``frozen_features.csv`` and ``diagnosis.png``; prints a table at the end. Checkpoints hold its state.

    Args:
        every_n_steps: batches between two measurements; the first batch is always measured.
        frozen_control: whether the copy is trained.
        frozen_lr: learning rate of its last layer at the start; by default the run's. The honest control has its own best one.
        dirpath: folder of the files; by default the logger's, without a logger none are written.
        plot: whether to draw (needs matplotlib).

    Raises:
        LightningFwdError: at the start of fit: the strategy is none of ours, a folder cannot be written, or matplotlib is missing.

    Example:
        >>> Trainer(strategy="pepita", callbacks=[Diagnosis(every_n_steps=50)])
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        frozen_control: bool = True,
        frozen_lr: float | None = None,
        dirpath: str | Path | None = None,
        plot: bool = True,
    ):
        if every_n_steps < 1:
            raise LightningFwdError(f"Diagnosis: every_n_steps={every_n_steps}", "", "use 1 or more")
        self.every_n_steps, self.frozen_control, self.frozen_lr = every_n_steps, frozen_control, frozen_lr
        self.dirpath, self.plot = dirpath, plot
        self.layers: list[LayerLine] = []
        self.gains: list[GainLine] = []
        self._start: dict[str, Tensor] = {}
        self._control: FrozenControl | None = None
        self._control_state: dict[str, Any] | None = None
        self._folder: Path | None = None
        self._batches, self._updates = 0, 0
        self._seen: tuple[Tensor, Tensor] | None = None  # of an evaluation
        self._calls = Calls()
        self._reference: ReferenceGradient | None = None
        self._measured: dict[str, tuple[float, float, float]] = {}
        self._hooks: list[Any] = []
        self._counts = [0, 0, 0]

    # ---- set-up

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(trainer.strategy, TrainsByRule):
            raise LightningFwdError(
                f"Diagnosis compares a learning rule with backpropagation, the strategy is {type(trainer.strategy).__name__}",
                "it reads the step of a rewritten network",
                'use Trainer(strategy="pepita") or another of ours; "backprop" is plain training',
            )
        self._open(trainer)
        if trainer.strategy.rewritten is not None:
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        """Once the network is rewritten, at the latest by the first batch."""
        model = _strategy(trainer).network
        if not self._start:
            self._start = {name: p.detach().clone() for name, p in _weights(model).items()}
        if self.frozen_control and self._control is None and trainer.optimizers:
            self._control = FrozenControl(model, trainer.optimizers[0], self.frozen_lr)
            if self._control_state is not None:
                self._control.load_state_dict(self._control_state)
        self._watch(model)

    def _open(self, trainer: Trainer) -> None:
        if self.dirpath is None and trainer.logger is None:
            return
        self._folder = Path(self.dirpath or trainer.log_dir or ".")
        if self.plot and find_spec("matplotlib") is None:
            raise LightningFwdError(
                "Diagnosis draws with matplotlib", "it is not installed", 'pip install "lightning_fwd[plots]", or plot=False'
            )
        for name, kind in (("diagnosis.csv", LayerLine), ("frozen_features.csv", GainLine)):
            begin(self._folder / name, kind, fresh=trainer.global_step == 0)

    def _watch(self, model: RewrittenModel) -> None:
        self._unwatch()
        self._hooks = [model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after)]

    def _unwatch(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _before(self, model: nn.Module, args: tuple) -> None:
        if self._reference is not None and model.training:
            self._reference.before(args[0])

    def _after(self, model: RewrittenModel, args: tuple, output: Tensor) -> None:
        if not model.training:
            self._seen = args[0].detach(), output.detach()
        elif output.requires_grad:
            self._calls.see(args[0], output, model.pending)
            if self._reference is not None:
                self._reference.after(args[0], output)

    # ---- the step

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._hooks:
            self._begin(trainer)
        self._updates = trainer.global_step
        self._calls.clear()
        if self._control is not None:
            self._control.follow_schedule()
        if self._batches % self.every_n_steps == 0:
            self._reference = ReferenceGradient(_strategy(trainer).network)

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self._reference is not None:
            self._reference.before_updates()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._reference is not None:
            self._measured = by_layer(self._reference.take(self._calls.targets))
            self._reference = None

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batches += 1
        self._reference = None
        if self._measured and self._calls.rows:
            self._record(trainer, pl_module, self._calls.rows)
        if self._control is not None:
            try:
                samples = self._calls.labelled()
            except StepError as error:
                rank_zero_warn(
                    f"Diagnosis has no control with frozen features: it learns by the labels of your loss, and found {error.what}. "
                    "Where training_step makes them, call lf.set_labels(labels) before the network; or frozen_control=False."
                )
                self._control = None
            else:
                self._control.step(samples, trainer.accumulate_grad_batches, trainer.global_step > self._updates)
        self._calls.clear()

    def _record(self, trainer: Trainer, pl_module: LightningModule, batch_size: int) -> None:
        changes = relative_changes(_weights(_strategy(trainer).network), self._start)
        lines = [
            LayerLine(self._batches, trainer.current_epoch, layer, cosine, angle(cosine), mine, theirs, changes[layer])
            for layer, (cosine, mine, theirs) in self._measured.items()
        ]
        self._measured = {}
        self.layers += lines
        if self._folder is not None and trainer.is_global_zero:
            append(self._folder / "diagnosis.csv", lines)
        values = {f"diagnosis/angle/{line.layer}": line.angle for line in lines}
        values |= {f"diagnosis/change/{line.layer}": line.relative_change for line in lines}
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=batch_size)

    # ---- gain over frozen features

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._count(trainer, args[1])

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gain(trainer, pl_module, "val")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._control is not None and isinstance(trainer.strategy, TrainsByRule):
            self._counts = [0, 0, 0]
            self._watch(trainer.strategy.network)

    @override
    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self._count(trainer, args[1])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gain(trainer, pl_module, "test")
        self._unwatch()

    def _count(self, trainer: Trainer, batch: Any) -> None:
        seen, self._seen = self._seen, None
        if self._control is None or seen is None or trainer.sanity_checking:
            return
        (x, logits), target = seen, _strategy(trainer).target_of(batch)
        if target is not None and target.shape == logits.shape[:1]:
            frozen = self._control.predict(x)
            hits = [int((scores.argmax(1) == target).sum()) for scores in (logits, frozen)]
            self._counts = [n + more for n, more in zip(self._counts, (*hits, len(target)), strict=True)]

    def _gain(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trained, frozen, total = self._counts
        self._counts = [0, 0, 0]
        if not total:
            return
        line = GainLine(
            self._batches, trainer.current_epoch, stage, 100 * trained / total, 100 * frozen / total, 100 * (trained - frozen) / total
        )
        self.gains.append(line)
        if self._folder is not None and trainer.is_global_zero:
            append(self._folder / "frozen_features.csv", [line])
        for name in ("accuracy", "frozen_accuracy", "gain"):
            pl_module.log(f"diagnosis/{name}/{stage}", getattr(line, name), batch_size=total)

    # ---- the end

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unwatch()
        if trainer.is_global_zero and self.layers:
            Console().print(table(self.layers, self.gains))
            if self._folder is not None and self.plot:
                plot(self.layers, self.gains, self._folder / "diagnosis.png")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unwatch()

    @override
    def state_dict(self) -> dict[str, Any]:
        control = self._control.state_dict() if self._control is not None else self._control_state
        return {"start": self._start, "control": control, "batches": self._batches}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start, self._control_state = state_dict["start"], state_dict["control"]
        self._batches = state_dict["batches"]


def _strategy(trainer: Trainer) -> TrainsByRule:
    """The strategy, which on_fit_start has checked."""
    return cast(TrainsByRule, trainer.strategy)


def _weights(model: RewrittenModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if not is_inserted(name) and torch.is_floating_point(p)}
