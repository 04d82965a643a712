"""The callback prices every step, writes what it saw, and stays out of the way."""

import csv

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ThroughputMonitor
from lightning.pytorch.loggers import CSVLogger
from method_table import as_pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.callbacks import StepCost
from lightning_fwd.cost import step_cost
from lightning_fwd.models import MLP, SmallConv


class Module(L.LightningModule):
    def __init__(self, net: nn.Module, momentum: float = 0.0):
        super().__init__()
        self.net, self.momentum = net, momentum

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=self.momentum)


def loader(net: nn.Module, samples: int = 20, batch: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *net.input_shape, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(samples) % net.num_classes), batch)


def fit(module: L.LightningModule, callback: StepCost, tmp_path, strategy="auto", epochs: int = 2, logger=False, more=()):
    trainer = L.Trainer(
        max_epochs=epochs, strategy=strategy, callbacks=[callback, *more], logger=logger, accelerator="cpu", devices=1,
        log_every_n_steps=1, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader(module.net))
    return trainer


QUICK = ("local_loss", "sparse_update")
SOME = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ("auto", *lf.METHODS)]


@pytest.mark.parametrize("strategy", SOME)
def test_prices_the_strategy_s_own_step(strategy, tmp_path, capsys):
    module, callback = Module(as_pretrained(SmallConv())), StepCost(dirpath=tmp_path)
    trainer = fit(module, callback, tmp_path, strategy)
    rows = list(csv.DictReader((tmp_path / "step_cost.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 7))
    method = "backprop" if strategy == "auto" else strategy
    full, last = (step_cost(SmallConv(), torch.zeros(b, 1, 8, 8), method=method) for b in (8, 4))
    assert [int(row["macs"]) for row in rows] == [full.total_macs, full.total_macs, last.total_macs] * 2
    assert int(rows[0]["peak_ram_bytes"]) == full.peak_ram_bytes
    for phase, macs in full.macs_by_phase.items():
        assert int(rows[0][f"{phase}_macs"]) == macs
    assert len(callback.reports) == 2  # a step is traced once per shape
    assert callback.total_macs == 4 * full.total_macs + 2 * last.total_macs
    assert trainer.callback_metrics["cost/macs"] == last.total_macs  # of the last, smaller batch
    assert "MAC" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", [*SOME[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in lf.METHODS)])
def test_the_step_of_a_device_that_takes_one_sample_at_a_time(strategy, tmp_path, capsys):
    module, callback = Module(as_pretrained(SmallConv())), StepCost(width="int8", dirpath=tmp_path, batch_size=1)
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: batch[0].shape[0], window_size=2)
    fit(module, callback, tmp_path, strategy, epochs=1, logger=CSVLogger(tmp_path), more=[monitor])
    method = "backprop" if strategy == "auto" else strategy
    one = step_cost(SmallConv(), torch.zeros(1, 1, 8, 8), width="int8", method=method)
    rows = list(csv.DictReader((tmp_path / "step_cost.csv").open()))
    assert [(int(r["macs"]), int(r["peak_ram_bytes"]), int(r["batch_size"])) for r in rows] == [(one.total_macs, one.peak_ram_bytes, 1)] * 3
    assert len(callback.reports) == 1  # the smaller last batch is no other step
    assert "batch of 1" in capsys.readouterr().out
    assert module.flops_per_batch == 2 * 4 * one.total_macs  # throughput is that of the batch that trains, here the last one


def test_what_is_printed_is_short_and_layers_come_when_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    callback = StepCost(batch_size=1)
    fit(Module(as_pretrained(SmallConv())), callback, tmp_path, "local_loss", epochs=1)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) < 25 and "classifier" not in printed and "peak RAM" in printed
    callback.layers = True
    callback._print()
    printed = capsys.readouterr().out
    names = {line.layer for line in callback.report.lines if line.macs}
    folded = "".join(cells[2].strip() for cells in (line.split("│") for line in printed.splitlines()) if len(cells) > 6)
    assert len(names) > 5 and all(name in folded for name in names)  # whole, over several lines where one is too short


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for callbacks in (False, True):
        torch.manual_seed(3)
        module = Module(MLP(hidden=(12,)))
        callback = StepCost(dirpath=tmp_path) if callbacks else L.Callback()
        fit(module, callback, tmp_path, "pepita")
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_device_width_and_stride(tmp_path):
    callback = StepCost(device="stm32h735", width="int8", every_n_steps=3, dirpath=tmp_path)
    fit(Module(as_pretrained(SmallConv()), momentum=0.9), callback, tmp_path, "local_loss")
    rows = list(csv.DictReader((tmp_path / "step_cost.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6]
    assert float(rows[0]["device_ms"]) > 0
    assert callback.report.verdict.fits and callback.report.ram_bytes_by_category["optimizer state"] > 0


def test_logger_folder_and_throughput(tmp_path):
    logger = CSVLogger(tmp_path)
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: batch[0].shape[0], window_size=2)
    module = Module(MLP(hidden=(12,)))
    fit(module, StepCost(), tmp_path, logger=logger, more=[monitor])
    assert (tmp_path / "lightning_logs" / "version_0" / "step_cost.csv").exists()
    assert module.flops_per_batch == 2 * step_cost(MLP(hidden=(12,)), torch.zeros(4, 64)).total_macs
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert {"loss", "cost/macs", "cost/peak_ram_bytes", "cost/update_macs"} <= set(header.split(","))


def test_a_frozen_layer_is_another_step(tmp_path):
    class Unfreezes(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.net.fc1.requires_grad_(trainer.current_epoch == 1)

    callback = StepCost(dirpath=tmp_path)
    fit(Module(MLP(hidden=(12,))), callback, tmp_path, "backprop", more=[Unfreezes()])
    macs = [int(row["macs"]) for row in csv.DictReader((tmp_path / "step_cost.csv").open())]
    assert macs[0] < macs[3]


def test_a_resumed_run_counts_on_and_repeats_no_row(tmp_path):
    def run(epochs, resume=None):
        callback, module = StepCost(dirpath=tmp_path), Module(MLP(hidden=(12,)))
        save = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = L.Trainer(
            max_epochs=epochs, callbacks=[callback, StepCost(width="int8", dirpath=tmp_path / "int8"), save], logger=False,
            accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader(module.net), ckpt_path=resume)
        return callback, (tmp_path / "step_cost.csv").read_text()

    whole, rows = run(3)
    resumed, rows_after = run(3, tmp_path / "epoch=0.ckpt")
    assert [row.split(",")[0] for row in rows.splitlines()[1:]] == [str(k) for k in range(1, 10)]
    assert rows_after == rows and resumed.total_macs == whole.total_macs


def test_an_optimizer_that_the_ledger_does_not_know_is_named(tmp_path):
    class ByRMSprop(Module):
        def configure_optimizers(self):
            return torch.optim.RMSprop(self.parameters(), momentum=0.9)

    callback = StepCost(dirpath=tmp_path)
    with pytest.warns(UserWarning, match="RMSprop: priced as plain SGD"):
        fit(ByRMSprop(MLP(hidden=(12,))), callback, tmp_path)
    assert "RMSprop" in callback.report.not_counted[0]


def test_what_an_optimizer_does_beyond_the_priced_one_is_named(tmp_path):
    class Boosted(torch.optim.SGD):
        pass

    class By(Module):
        def configure_optimizers(self):
            return Boosted(self.parameters(), 0.05, momentum=0.9, dampening=0.1, weight_decay=1e-4, maximize=True)

    callback = StepCost()
    with pytest.warns(UserWarning, match="not in StepCost's figures: what Boosted adds to SGD(.*)dampening=0.1(.*)maximize=True"):
        fit(By(MLP(hidden=(12,))), callback, tmp_path)
    assert callback.report.optimizer == "sgd, weight decay"
    assert [note.partition(" ")[0] for note in callback.report.not_counted[:3]] == ["what", "dampening=0.1", "maximize=True"]


def test_no_file_without_a_place_for_it(tmp_path):
    fit(Module(MLP(hidden=(12,))), StepCost(), tmp_path)
    assert not list(tmp_path.rglob("step_cost.csv"))


def test_bad_arguments(tmp_path):
    with pytest.raises(lf.LightningFwdError, match="unknown device"):
        StepCost(device="stm32zz")
    for device in (5, nn.Linear(1, 1)):
        with pytest.raises(lf.LightningFwdError, match="neither a name nor a path(.|\n)*stm32h735"):
            StepCost(device=device)
    with pytest.raises(lf.StepError, match="unknown width 'int4'(.|\n)*fp32, int8, mixed"):
        StepCost(width="int4")
    for width in ("fp32", "mixed"):
        with pytest.raises(lf.LightningFwdError, match="ethos_u55_128 has no cycles_per_mac for width 'fp32'"):
            StepCost(device="ethos_u55_128", width=width)
    with pytest.raises(lf.LightningFwdError, match="every_n_steps"):
        StepCost(every_n_steps=0)
    for size in (0, "1"):
        with pytest.raises(lf.LightningFwdError, match="batch_size"):
            StepCost(batch_size=size)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(lf.LightningFwdError, match="cannot write"):
        fit(Module(MLP(hidden=(12,))), StepCost(dirpath=blocker), tmp_path)


def test_what_cannot_be_priced_warns_and_trains_on(tmp_path):
    class TwoInputs(MLP):
        def forward(self, x, scale):
            return super().forward(x) * scale

    class Scaled(Module):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch[0], 2.0), batch[1])

    module = Scaled(TwoInputs(hidden=(12,)))
    with pytest.warns(UserWarning, match="cannot price"):
        fit(module, StepCost(dirpath=tmp_path), tmp_path)
    assert len((tmp_path / "step_cost.csv").read_text().splitlines()) == 1  # the header alone


class TwoViews(Module):
    """Each batch twice, or in two parts, or once more without gradients."""

    def __init__(self, net: nn.Module, kind: str):
        super().__init__(net)
        self.kind = kind

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.kind == "twice":
            return F.cross_entropy(self.net(x), y) + F.cross_entropy(self.net(x + 0.1), y)
        if self.kind == "parts":
            return F.cross_entropy(self.net(x[:4]), y[:4]) + F.cross_entropy(self.net(x[4:]), y[4:])
        with torch.no_grad():
            teacher = self.net(x + 0.1).softmax(1)
        return F.cross_entropy(self.net(x), teacher)


@pytest.mark.parametrize("strategy", ["auto", "backprop", "direct_feedback"])
@pytest.mark.parametrize("kind", ["twice", "parts", "teacher"])
def test_every_call_of_the_network_is_priced(strategy, kind, tmp_path):
    net, callback = MLP(hidden=(12,)), StepCost(device="stm32h735", dirpath=tmp_path)
    method = "backprop" if strategy == "auto" else strategy
    whole, half = (step_cost(MLP(hidden=(12,)), torch.zeros(b, *net.input_shape), "stm32h735", method=method) for b in (8, 4))
    wanted = {
        "twice": 2 * whole.total_macs,
        "parts": 2 * half.total_macs,
        "teacher": whole.total_macs + whole.macs_by_phase["forward"],
    }[kind]
    trainer = L.Trainer(
        max_epochs=1, strategy=strategy, callbacks=[callback], logger=False, accelerator="cpu", devices=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="calls the network 2 times"):
        trainer.fit(TwoViews(net, kind), loader(net, samples=16))
    assert callback.report.total_macs == wanted and callback.total_macs == 2 * wanted
    assert callback.report.latency_s == pytest.approx(whole.latency_s * wanted / whole.total_macs)
    assert "2 calls" in callback.report.not_counted[0] and not net._forward_pre_hooks
