"""The recipes' LightningModule: its labels, and a schedule that belongs to the run it is in."""

import math

import lightning as L
import pytest
import torch
from method_table import QUIET
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.classifier import Classifier
from lightning_fwd.models import MLP


class Rates(L.Callback):
    """The rate of each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def run(folder, epochs, resume=None):
    torch.manual_seed(0)
    module, rates = Classifier(MLP(4, (3,), 2), lr=0.1, schedule="cosine"), Rates()
    data = DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 2), 4)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[rates], enable_checkpointing=False, **QUIET)
    trainer.fit(module, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return rates.seen, trainer.optimizers[0].param_groups[0]["lr"]


def test_a_finished_run_that_is_resumed_with_more_epochs_goes_on_down(tmp_path):
    first, end = run(tmp_path, 2)
    assert first == sorted(first, reverse=True) and end == pytest.approx(0, abs=1e-9)
    more, end = run(tmp_path, 4, tmp_path / "2.ckpt")
    whole = [0.1 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
    assert more == pytest.approx(whole[6:]) and end == pytest.approx(0, abs=1e-9)


def test_a_run_that_is_resumed_as_it_was_has_the_same_rates_to_the_bit(tmp_path):
    whole, _ = run(tmp_path, 3)

    class Killed(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / f"epoch{trainer.current_epoch}.ckpt")

    torch.manual_seed(0)
    module = Classifier(MLP(4, (3,), 2), lr=0.1, schedule="cosine")
    data = DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 2), 4)
    L.Trainer(max_epochs=3, callbacks=[Killed()], enable_checkpointing=False, **QUIET).fit(module, data)
    resumed, _ = run(tmp_path, 3, tmp_path / "epoch0.ckpt")
    assert resumed == whole[3:]


@pytest.mark.parametrize(("wrong", "said"), [(-1, "label -1(.|\n)*counted from 0"), (2, "label 2, the model has 2 classes")])
def test_labels_out_of_range_are_named(wrong, said):
    with pytest.raises(lf.LightningFwdError, match=said):
        Classifier(MLP(4, (3,), 2)).training_step((torch.randn(2, 4), torch.tensor([0, wrong])), 0)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (MLP(5, (3,), 2), r"samples \(4,\): RuntimeError: .*shapes cannot be multiplied"),
        (torch.nn.Conv2d(3, 2, 1), r"samples \(4,\): RuntimeError"),
        (torch.nn.BatchNorm2d(4), r"samples \(4,\): ValueError: expected 4D"),
        (torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Unflatten(1, (2, 1, 1))), r"gives \(3, 2, 1, 1\), the labels are \(3,\)"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_named(network, said):
    module = Classifier(network)
    with pytest.raises(lf.LightningFwdError, match=f"(?s){said}.*mend: "):
        module.training_step((torch.randn(3, 4), torch.tensor([0, 1, 0])), 0)
