"""The command line: results where results are due, advice and exit code 2 where the user erred."""

import subprocess
import sys

import lightning as L
import pytest
import torch
import yaml
from torch import nn

from lightning_fwd import METHODS, Classifier
from lightning_fwd.cli import main
from lightning_fwd.models import MODELS


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
    before, after = out.split("after")
    assert "before" in before and "fc1" in before and "_lfwd" not in before
    assert "heads" in after and "detach" in after


def test_settings_of_the_rule_and_the_model(capfd):
    arguments = ["rewrite", "--model", "mlp", "--model-args", "hidden=(8,8),num_classes=3", "--method", "sparse_update"]
    assert main([*arguments, "--set", "train=['fc2']"]) == 0
    assert "train=['fc2']" in capfd.readouterr().out.replace("\n", "")


def exit_code(arguments):
    """Of a command run in this process; the option parsers leave by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


def refused(arguments, said, capfd):
    assert exit_code(arguments) == 2
    streams = capfd.readouterr()
    printed = " ".join((streams.out + streams.err).split())
    assert said in printed and "Traceback" not in printed and "Given value" not in printed and "usage: lightning-fwd fit" not in printed, (
        printed
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rewrite", "--model", "mlp", "--method", "pepitta"], "unknown method 'pepitta'"),
        (["rewrite", "--model", "resnet9"], "unknown model 'resnet9'"),
        (
            ["rewrite", "--model", "mlp", "--method", "pepita", "--set", "lambda=1"],
            "pepita has no setting 'lambda' mend: settings of pepita: ",
        ),
        (["rewrite", "--model", f"{__name__}.NoShape"], "--input-shape"),
        (["rewrite", "--model", f"{__name__}.Untraceable", "--input-shape", "64"], "cannot be captured"),
        (["rewrite", "--model", f"{__name__}.TwoInputs", "--input-shape", "4"], "takes 2 inputs (x, y)"),
        (["rewrite", "--model", "mlp", "--model-args", "hiden=3"], "model_args: hiden=3"),
        (["cost", "--model", "mlp", "--json", "nowhere/cost.json"], "nowhere"),
        (["cost", "--model", "mlp", "--device", "stm99"], "stm99"),
        (["cost", "--model", "mlp", "--batch", "0"], "'0' is not a whole number above 0"),
        (["cost", "--model", "mlp", "--input-shape", "3,x"], "'3,x' is not a shape"),
        (["compare", "-c", "nowhere.yaml", "--out", "out"], "cannot read the scenario 'nowhere.yaml'"),
        (["cost", "--model", "mlp", "--method", "sparse_update", "--set", "trian=head"], "settings of sparse_update: train, channels"),
        (["list", "methods", "pepitta"], "no 'pepitta' among methods mend: known are backprop"),
        (["list", "devices", "stm32"], "no 'stm32' among devices mend: known are cortex_m4_qemu"),
        (["list", "drifts", "noize"], "no 'noize' among drifts mend: known are"),
        (["list", "data", "digits"], "lightning-fwd list data shows all there is"),
        (["comparr"], "comparr"),
    ],
)
def test_mistakes_end_in_advice(arguments, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(arguments, said, capfd)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


class TwoInputs(Untraceable):
    def forward(self, x, y):
        return self.layer(x + y)


class Frozen(Classifier):
    def __init__(self):
        super().__init__()
        self.network.requires_grad_(False)


class TwoOptimizers(Classifier):
    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), 0.1) for layer in (self.network.fc1, self.network.fc2)]


class Unlabelled(Classifier):
    def training_step(self, batch, batch_idx):
        return self(batch["image"]).square().mean()


class Images(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader([{"image": torch.ones(1, 8, 8)}] * 8, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trainer.strategy=pepitta"], "learning rules by name: backprop"),
        (["--trainer.strategy=pepita_fsdp"], "do not run under FSDP"),
        (["--model.lr=1e9"], "the loss is"),
        (["--model.model=resnet9"], "unknown model 'resnet9'"),
        (["--model.model_args={num_classes: 5}", "--trainer.strategy=local_loss"], "a label 9, the model has 5 classes"),
        ([f"--model.model={__name__}.Untraceable"], "cannot be captured"),
        ([f"--model.model={__name__}.TwoInputs"], "takes 2 inputs (x, y)"),
        ([f"--model={__name__}.Frozen"], "no parameters left to train"),
        ([f"--model={__name__}.TwoOptimizers"], "several optimizers"),
        ([f"--model={__name__}.Unlabelled", f"--data={__name__}.Images", "--trainer.strategy=local_loss"], "needs the labels of the batch"),
        (["--data.dataset=digitz"], "unknown data set 'digitz'"),
        (["--data.dataset=har", "--data.root=nowhere"], "no spsw_har_windows.npz in the data folder nowhere"),
        (["--data.drift=nois"], "unknown drift 'nois'"),
        (["--trainer.default_root_dir=file/out", "--trainer.enable_checkpointing=true"], "file/out"),
        (["--model.lr=fast"], "fast"),
        (["--model.model_args={hiden: 3}"], "model_args: hiden=3"),
        (["--model.model_args={in_features: 32}"], "cannot take the data's samples (1, 8, 8): RuntimeError: mat1"),
        (["--model.model_args={in_features: 32}", "--trainer.num_sanity_val_steps=0"], "fails on an input of shape (2, 1, 8, 8)"),
        ([f"--model.model={__name__}.Nope"], f"model '{__name__}.Nope': module '{__name__}' has no 'Nope'"),
        (["--trainer.strategy.init_args.method=lightning_fwd.Pepita"], "by a word (strategy: local_loss)"),
    ],
)
def test_mistakes_in_a_fit_end_in_advice(options, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    quiet = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
    refused(["fit", "--trainer.strategy=pepita", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", *quiet, *options], said, capfd)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"name": "x", "method": "pepitta"}]}, "unknown method 'pepitta'"),
        ({"data": {"dataset": "digits", "drift": "nois"}}, "unknown drift 'nois'"),
        ({"data": {"dataset": "har", "drift": "both", "root": "nowhere"}}, "no spsw_har_windows.npz"),
        ({"device": "stm99"}, "stm99"),
        ({"model": "resnet9"}, "unknown model 'resnet9'"),
        ({"model_args": {"width": 3}}, "model_args"),
    ],
)
def test_mistakes_in_a_comparison_end_in_advice(change, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {"data": {"dataset": "digits", "drift": "noise"}, "model": "small_conv", "rows": [{"name": "x", "method": "pepita"}]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **change}))
    refused(["compare", "-c", "recipe.yaml", "--out", "out", "--jobs", "1"], said, capfd)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(capfd, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": {"dataset": "digits", "drift": "noise"}, "model": "small_conv"}))
    refused(["compare", "-c", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "file" / "out")], "cannot write to", capfd)


OWN_NET = """
import torch
class MyNet(torch.nn.Sequential):
    input_shape = (1, 8, 8)
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 12))
"""


def test_a_file_in_the_current_folder(tmp_path):
    """As the installed command runs it: not by ``python -m``, which has the folder on its path, and in worker processes too."""
    (tmp_path / "mynet.py").write_text(OWN_NET)
    (tmp_path / "broken_net.py").write_text("import nothing_of_the_kind")
    start = f"import sys; sys.path.remove(''); sys.argv[0] = 'lightning-fwd'; from {main.__module__} import main; sys.exit(main())"
    fit = ["--trainer.max_epochs=1", "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.accelerator=cpu"]
    for arguments, code, said in (
        (["cost", "--model", "mynet.MyNet"], 0, "768"),
        (["fit", "--model.model=mynet.MyNet", "--trainer.strategy=pepita", *fit], 0, "test/accuracy"),
        (
            ["cost", "--model", "broken_net.MyNet"],
            2,
            "cannot import 'broken_net': ModuleNotFoundError: No module named 'nothing_of_the_kind'",
        ),
    ):
        done = subprocess.run([sys.executable, "-c", start, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and said in " ".join((done.stdout + done.stderr).split()), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "devices"], ["stm32h735", "cycles_per_mac:"]),
        (["list", "devices", "stm32h735"], ["Cortex-M7", "sram_bytes: ", "datasheet: ", "cycles_per_mac.int8.default: "]),
        (["list", "drifts", "blur"], ["side of the box filter", "levels 1 to 5: 3, 5", "blur=7"]),
        (["list", "drifts"], ["gain_offset", "0.04, 0.06", "noise=0.08", "may follow a real one: subject+noise=0.5."]),
        (["list", "methods"], [*METHODS, "feedback_scale"]),
        (["list", "methods", "pepita"], ["feedback_scale:", "feedback_scale="]),
        (["list", "models"], [*MODELS]),
        (["list", "models", "small_conv"], ["widths=(16, 32, 32)"]),
        (["list", "data"], ["x_train", "fashion_mnist", "drift_severity:"]),
        (["compare", "--help"], ["adapt_samples:", "after_statistics:", "weight_decay", "epochs=20", "lightning-fwd list"]),
        (["search", "--help"], ["finalists:", "x_inference", "weights:", "held_out=1000"]),
        (["cost", "--help"], ["lightning-fwd list TOPIC"]),
    ],
)
def test_what_a_recipe_may_hold_is_found_from_the_command_line(arguments, said, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert exit_code(arguments) in (0, None)
    printed = capfd.readouterr().out
    assert all(text in printed for text in said), printed


def test_rewrite_of_an_own_model(capfd):
    assert main(["rewrite", "--model", f"{__name__}.NoShape", "--input-shape", "4", "--method", "backprop"]) == 0
    assert "layer" in capfd.readouterr().out
    assert torch.is_grad_enabled()
