"""Record what each training step costs, whatever rule trains."""

from __future__ import annotations

import copy
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ..cost import CostReport, Device, device_for, step_cost
from ..cost.calls import of_calls
from ..errors import LightningFwdError
from ..graph.phase import PHASES
from ..graph.rewritten import RewrittenModel
from ..strategies.batch import input_of, target_of
from ..strategies.install import find_network
from ..trace import of_torch
from ..trace.optimizers import SGD, Optimizer
from .network_calls import NetworkCalls

COLUMNS = (
    "step", "epoch", "macs", "macs_needed", *(f"{phase}_macs" for phase in PHASES), "elementwise_operations", "peak_ram_bytes",
    "peak_activation_bytes", "weight_bytes", "parameters_trained", "device_ms", "cuda_peak_bytes", "batch_size",
)  # fmt: skip


class StepCost(Callback):
    """Price each training step: multiply-accumulates by phase, peak memory, and with a device time, energy and whether it fits.

    A step is traced once per shape of batch and choice of trained parameters, then looked up. Each call of the network in a training_step
    is priced, by the shape of its input: a call with gradients as a step of its own, one without by its forward pass. Memory is that of the
    largest of them alone; a warning says so. Works with every strategy: without one of
    ours it prices backpropagation. Logs ``cost/macs``, ``cost/<phase>_macs``, ``cost/peak_ram_bytes``, ``cost/peak_activation_bytes``,
    ``cost/weight_bytes`` (on CUDA ``cost/cuda_peak_bytes``, measured), and, where a rule's sparsity follows the data, ``cost/macs_needed``:
    what the step took of the ``cost/macs`` that its shapes have room for. Writes a row per step to ``step_cost.csv``; prints a summary
    at the end; sets ``flops_per_batch`` for Lightning's ThroughputMonitor. A run resumed from a checkpoint counts on from its step.
    SGD, Adam and AdamW are priced with momentum, Nesterov, weight decay and AMSGrad; what an optimizer does beyond that is named in a
    warning and among what the report does not count. Any other optimizer is priced as plain SGD, and named too.

    Args:
        device: name of a device profile, path of a YAML file, or a :class:`lightning_fwd.cost.Device`.
        width: ``"fp32"``, ``"int8"`` or ``"mixed"``: what the step would take at this width on a device (training itself runs as ever).
        every_n_steps: rows of ``step_cost.csv`` are this far apart.
        dirpath: folder of ``step_cost.csv``; by default the logger's, without a logger none is written.
        batch_size: samples of the step that is priced; by default those of each batch as trained. A device that learns from one sample at a
            time takes 1: its memory, MAC and time are those of that step, not of the batch that trains here.
        layers: print at the end the work of each layer and what the peak consists of, too.

    Raises:
        LightningFwdError: unknown device or width, or a device without figures for the width; at the start of training, a folder that
            cannot be written.

    Example:
        >>> Trainer(strategy="pepita", callbacks=[StepCost(device="stm32h735", width="int8")])
    """

    def __init__(
        self,
        device: str | Path | Device | None = None,
        width: str = "fp32",
        every_n_steps: int = 1,
        dirpath: str | Path | None = None,
        batch_size: int | None = None,
        layers: bool = False,
    ):
        if every_n_steps < 1:
            raise LightningFwdError(f"StepCost: every_n_steps={every_n_steps}", "", "use 1 or more")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise LightningFwdError(f"StepCost: batch_size={batch_size!r}", "", "use 1 or more, or None for the batches as trained")
        self.device = device_for(device, width)
        self.width, self.every_n_steps, self.dirpath, self.batch_size, self.layers = width, every_n_steps, dirpath, batch_size, layers
        self.reports: dict[tuple, CostReport | None] = {}
        self.steps: dict[tuple, int] = {}
        self._rows: list[tuple] = []
        self._calls = NetworkCalls()
        self._file: Path | None = None
        self._step, self._macs_before, self._gives_flops = 0, 0, False
        self._logged: CostReport | None = None

    @property
    def report(self) -> CostReport | None:
        """The cost of the step that ran most often, None where it could not be priced."""
        return self.reports[max(self.steps, key=self.steps.__getitem__)] if self.steps else None

    @property
    def total_macs(self) -> int:
        """MAC of all training steps so far, each at the batch size that was priced; a resumed run counts on."""
        return self._macs_before + sum(
            count * report.total_macs for key, count in self.steps.items() if (report := self.reports[key]) is not None
        )

    @property
    @override
    def state_key(self) -> str:
        device = self.device and self.device.name
        return self._generate_state_key(device=device, width=self.width, batch_size=self.batch_size, dirpath=str(self.dirpath))

    @override
    def state_dict(self) -> dict[str, int]:
        return {"step": self._step, "macs": self.total_macs}

    @override
    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._step, self._macs_before = state_dict["step"], state_dict["macs"]
        self.steps.clear()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "flops_per_batch"):  # ThroughputMonitor looks once, at the first batch
            pl_module.flops_per_batch = 0  # type: ignore[assignment]
            self._gives_flops = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or (self.dirpath is None and trainer.logger is None):
            return
        self._file = Path(self.dirpath or trainer.log_dir or ".") / "step_cost.csv"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if trainer.global_step == 0 or not self._file.exists():
                self._file.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
            elif self._step:  # resumed: the steps after the checkpoint run, and are written, again
                header, *rows = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [row for row in rows if int(row.partition(",")[0]) <= self._step]
                self._file.write_text("".join([header, *kept]), encoding="utf-8")
        except (OSError, ValueError) as error:  # a file of that name may be another's
            raise LightningFwdError(
                f"StepCost cannot write {self._file}",
                str(error),
                "give StepCost(dirpath=...) a folder that you may write to",
            ) from error

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._calls.watch(_network(trainer, pl_module), pl_module)
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        key = self._key(trainer, batch)
        if key not in self.reports:
            self.reports[key] = self._price_calls(trainer, pl_module, batch)
        self._calls.seen.clear()
        report = self.reports[key]
        self.steps[key] = self.steps.get(key, 0) + 1
        self._step += 1
        if report is None:
            return
        root = trainer.strategy.root_device
        measured = torch.cuda.max_memory_allocated(root) if root.type == "cuda" else None
        needed = _macs_needed(trainer, report)
        if self._step % self.every_n_steps == 0:
            self._rows.append((self._step, trainer.current_epoch, report, needed, measured))
        samples = _samples(batch) or report.batch_size
        if needed != report.total_macs:
            pl_module.log("cost/macs_needed", float(needed), batch_size=samples)
        if report is not self._logged or batch_idx == 0 or trainer._logger_connector.should_update_logs:
            self._logged = report
            pl_module.log_dict(_metrics(report, measured), on_step=True, on_epoch=False, batch_size=samples)
            if self._gives_flops:
                share = 1 if self.batch_size is None else samples / report.batch_size
                pl_module.flops_per_batch = round(2 * report.total_macs * share)  # type: ignore[assignment]

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._calls.stop()
        self._write()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._calls.stop()
        self._write()
        self._print()

    @rank_zero_only
    def _write(self) -> None:
        if self._file is not None and self._rows:
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(_row(*row) for row in self._rows)
        self._rows.clear()

    @rank_zero_only
    def _print(self) -> None:
        if self.report is not None:
            console = Console()
            console.print(self.report if self.layers else self.report.summary())
            kinds = f", {len(self.steps)} kinds of step" if len(self.steps) > 1 else ""
            console.print(f"{self._step:,} steps{kinds}, {self.total_macs:,} MAC in all")

    def _key(self, trainer: Trainer, batch: Any) -> tuple:
        """What a step's cost depends on: the batch's shapes and which parameters the rule trains now."""
        rewritten = getattr(trainer.strategy, "rewritten", None)
        shapes = (*map(self._shape, _tensors(batch)), *((None if x is None else self._shape(x), learns) for x, learns in self._calls.seen))
        if rewritten is None:
            return shapes
        return (*shapes, repr(rewritten.method), tuple(p.requires_grad for p in rewritten.parameters()))

    def _shape(self, tensor: Tensor) -> tuple:
        return tensor.shape if self.batch_size is None else tensor.shape[1:], tensor.dtype

    def _price_calls(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> CostReport | None:
        """The cost of a step with all its calls of the network; None where one of them cannot be priced."""
        self._calls.stop()
        calls, prices = [], {}  # type: list[tuple[CostReport, bool]], dict[tuple | None, CostReport | None]
        for x, learns in self._calls.seen or [(None, True)]:
            shape = None if x is None else self._shape(x)
            if shape not in prices:
                prices[shape] = self._price(trainer, pl_module, batch, x)
            if (report := prices[shape]) is None:
                return None
            calls.append((report, learns))
        if len(calls) > 1:
            rank_zero_warn(
                f"training_step calls the network {len(calls)} times: StepCost counts the work of all of them; peak memory is that of one"
            )
        return of_calls(calls)

    def _price(self, trainer: Trainer, pl_module: LightningModule, batch: Any, x: Tensor | None) -> CostReport | None:
        network = _network(trainer, pl_module)
        try:
            x = input_of(batch) if x is None else x
            target = getattr(trainer.strategy, "target_of", target_of)(batch)
            if self.batch_size is not None:  # only shapes count
                x, target = _of_size(self.batch_size, x), None if target is None else _of_size(self.batch_size, target)
            loss, target = _loss_for(target, x)
            if not isinstance(network, RewrittenModel):
                network = copy.deepcopy(network)
            optimizer, left_out = _optimizer(trainer)
            report = step_cost(
                network,
                (x.detach(), target),
                self.device,
                self.width,
                loss=loss,
                optimizer=optimizer,
            )
            if left_out:
                rank_zero_warn(f"not in StepCost's figures: {'; '.join(left_out)}")
                report = replace(report, not_counted=(*left_out, *report.not_counted))
            return report
        except LightningFwdError as error:
            rank_zero_warn(f"StepCost cannot price this step: {error}")
            return None


def _network(trainer: Trainer, pl_module: LightningModule) -> nn.Module:
    rewritten = getattr(trainer.strategy, "rewritten", None)
    if rewritten is not None:
        return rewritten
    name = find_network(pl_module)
    return pl_module if name is None else getattr(pl_module, name)


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [v for v in values if isinstance(v, Tensor)]


def _samples(batch: Any) -> int:
    """Samples in a batch, 0 where it holds no tensor that would tell."""
    return next((t.shape[0] for t in _tensors(batch) if t.ndim), 0)


def _of_size(samples: int, tensor: Tensor) -> Tensor:
    return tensor.new_zeros(samples, *tensor.shape[1:])


def _loss_for(target: Tensor | None, x: Tensor):
    """Cross-entropy where the batch has labels; elsewhere a loss that costs about as much."""
    if target is not None and not target.dtype.is_floating_point and target.shape == x.shape[:1]:
        return F.cross_entropy, target
    return (lambda logits, _target: logits.square().mean()), x.new_zeros(x.shape[0], dtype=torch.int64)


def _optimizer(trainer: Trainer) -> tuple[Optimizer, list[str]]:
    """What to price as the optimizer, and what of the run's own, and of its gradient clipping, that leaves out."""
    if not trainer.optimizers:
        return SGD(0.01), []
    optimizer, left_out = of_torch(trainer.optimizers[0])
    if more := [type(o).__name__ for o in trainer.optimizers[1:]]:
        left_out.append(f"{', '.join(more)}: only the first of several optimizers is priced, for all parameters")
    if trainer.gradient_clip_val:
        left_out.append("gradient clipping, which by norm would keep all gradients until the last is known")
    return optimizer, left_out


def _metrics(report: CostReport, cuda_peak_bytes: int | None) -> dict[str, float]:
    metrics = {"cost/macs": report.total_macs}
    metrics |= {f"cost/{phase}_macs": macs for phase, macs in report.macs_by_phase.items()}
    metrics |= {
        "cost/peak_ram_bytes": report.peak_ram_bytes,
        "cost/peak_activation_bytes": report.peak_activation_bytes,
        "cost/weight_bytes": report.weight_bytes,
    }
    if cuda_peak_bytes is not None:
        metrics["cost/cuda_peak_bytes"] = cuda_peak_bytes
    return {name: float(value) for name, value in metrics.items()}


def _macs_needed(trainer: Trainer, report: CostReport) -> int:
    """Operations of the last step, without those on errors that its rule set to zero."""
    rewritten = getattr(trainer.strategy, "rewritten", None)
    fractions = {} if rewritten is None else rewritten.method.work_needed(rewritten)
    spared = sum((1 - fractions.get(line.layer, 1.0)) * line.macs for line in report.lines if line.phase in ("backward", "update"))
    return report.total_macs - round(spared)


def _row(step: int, epoch: int, report: CostReport, macs_needed: int, cuda_peak_bytes: int | None) -> tuple:
    phases = report.macs_by_phase
    device_ms = "" if report.latency_s is None else f"{report.latency_s * 1e3:.6g}"
    return (
        step, epoch, report.total_macs, macs_needed, *(phases.get(phase, 0) for phase in PHASES), report.total_elementwise,
        report.peak_ram_bytes, report.peak_activation_bytes, report.weight_bytes, report.parameters_trained, device_ms,
        "" if cuda_peak_bytes is None else cuda_peak_bytes, report.batch_size,
    )  # fmt: skip
