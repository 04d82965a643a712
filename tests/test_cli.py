"""The command line: results where results are due, advice and exit code 2 where the user erred."""

import pytest
import torch
from torch import nn

from lightning_fwd.cli import main


class NoShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)


def test_fit_trains_and_ends_with_the_test_accuracy(tmp_path, capfd):
    arguments = [
        "fit", "--model.lr=0.1", "--trainer.strategy=local_loss", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--seed_everything=0",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "test/accuracy" in capfd.readouterr().out


def test_rewrite_shows_what_was_inserted(capfd):
    assert main(["rewrite", "--model", "mlp", "--method", "local_loss"]) == 0
    out = capfd.readouterr().out
    assert "before" in out and "after" in out and "goodness" in out or "heads" in out


def test_settings_of_the_rule_and_the_model(capfd):
    arguments = ["rewrite", "--model", "mlp", "--model-args", "hidden=(8,8),num_classes=3", "--method", "sparse_update"]
    assert main([*arguments, "--set", "train=['fc2']"]) == 0
    assert "train=['fc2']" in capfd.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rewrite", "--model", "mlp", "--method", "pepitta"], "unknown method 'pepitta'"),
        (["rewrite", "--model", "resnet9"], "unknown model 'resnet9'"),
        (["rewrite", "--model", "mlp", "--method", "pepita", "--set", "lambda=1"], "--set"),
        (["rewrite", "--model", f"{__name__}.NoShape"], "--input-shape"),
        (["compare", "-c", "nowhere.yaml", "--out", "out"], "no scenario file nowhere.yaml"),
    ],
)
def test_mistakes_end_in_advice(arguments, said, capfd):
    assert main(arguments) == 2
    printed = capfd.readouterr().err.replace("\n", " ")
    assert said in printed and "Traceback" not in printed


def test_rewrite_of_an_own_model(capfd):
    assert main(["rewrite", "--model", f"{__name__}.NoShape", "--input-shape", "4", "--method", "backprop"]) == 0
    assert "layer" in capfd.readouterr().out
    assert torch.is_grad_enabled()
