"""A pretrained model keeps what it knows: before the first step, and with heads calibrated on source data."""

import os
from pathlib import Path

import lightning as L
import pytest
import torch
from method_table import NETS, clusters
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.callbacks import CalibrateHeads
from lightning_fwd.data import DriftDataModule
from lightning_fwd.methods.calibrate import calibrate
from lightning_fwd.models import ResNet8

PREDICTIONS = ("own", "last", "sum")


def percent_right(model, x, y):
    model.eval()
    with torch.no_grad():
        return 100 * sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True)) / len(y)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_original_predicts_until_something_was_learned(prediction):
    net = ResNet8().eval()
    x = 255 * torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        model = lf.rewrite(net, lf.LocalLoss(prediction=prediction, batch_norm="freeze"), x[:2])
        assert torch.equal(model(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_pretrained_resnet8_stays_within_half_a_point(prediction):
    """``LIGHTNING_FWD_DATA=... pytest -m slow tests/methods/test_calibrate.py`` (a minute): not worse than the original by more than 0.5
    points."""
    folder = os.environ.get("LIGHTNING_FWD_DATA", "")
    assert (Path(folder) / "mlperf_tiny" / "resnet8.npz").exists(), (
        "set LIGHTNING_FWD_DATA to the folder with mlperf_tiny/ and cifar10_jpeg.npz"
    )
    data = DriftDataModule("cifar10", normalize="byte", test_samples=2000, train_samples=5000)
    x, y = data.tensors("test")
    net = ResNet8(weights=Path(folder) / "mlperf_tiny" / "resnet8.npz").eval()
    original = percent_right(net, x, y)
    model = lf.rewrite(net, lf.LocalLoss(prediction=prediction, batch_norm="freeze"), x[:2])
    assert percent_right(model, x, y) == original
    calibrate(model, zip(*(part.split(250) for part in data.tensors("train")), strict=True))
    assert percent_right(model, x, y) >= original - 0.5


class Module(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_the_callback_calibrates_before_the_first_step_and_a_resumed_fit_not_again(tmp_path):
    net = NETS["conv"]()
    x, y = clusters(net, 64)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    seen = []

    def source():
        for batch in batches:
            seen.append(batch)
            yield batch

    module = Module(net)
    strategy = lf.ForwardOnlyStrategy(lf.LocalLoss(prediction="last", batch_norm="freeze"), example_input=x[:2])
    options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer = L.Trainer(max_epochs=1, strategy=strategy, callbacks=[CalibrateHeads(source())], default_root_dir=tmp_path, **options)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert len(seen) == len(batches)
    head = module.net.inserted.heads["1"].linear
    before = head.weight.clone()
    assert percent_right(module.net, x, y) > 90  # lr is 0: what the heads know, they have from the calibration
    CalibrateHeads(batches).on_fit_start(trainer, module)
    assert torch.equal(head.weight, before)


def test_heads_that_do_not_learn_and_labels_out_of_range_are_refused():
    net = NETS["mlp"]()
    x, y = clusters(net, 16)
    with pytest.raises(lf.StepError, match="no heads that learn"):
        calibrate(lf.rewrite(net, lf.LocalLoss(head="random"), x), [(x, y)])
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    model = lf.rewrite(net, lf.LocalLoss(), x)
    before = model.inserted.heads["0"].linear.weight.clone()
    with pytest.raises(lf.StepError, match="classes"):
        calibrate(model, [(x, y), (x, y + 1)])
    assert torch.equal(model.inserted.heads["0"].linear.weight, before) and not model.has_learned
