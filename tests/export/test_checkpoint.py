"""From what a training run left to a program: recipe, checkpoint, and the ways in which they do not fit."""

import argparse
import json

import lightning as L
import pytest
import torch
from lightning_fwd_export import ExportError, export
from lightning_fwd_export.checkpoint import load_inserted, read_recipe, sample_shape
from tiny_exports import tiny

import lightning_fwd as lf
from lightning_fwd.classifier import Classifier
from lightning_fwd.cli import main
from lightning_fwd.cli.options import build_model
from lightning_fwd.data import DriftDataModule
from lightning_fwd.models.weights import read_checkpoint

RECIPE = """
model:
  class_path: lightning_fwd.Classifier
  init_args: {model: mlp, model_args: {in_features: 64, hidden: [12]}, lr: 0.05, momentum: 0.0}
data:
  class_path: lightning_fwd.data.DriftDataModule
  init_args: {dataset: digits}
trainer:
  strategy: {class_path: lightning_fwd.ForwardOnlyStrategy, init_args: {method: {class_path: lightning_fwd.Pepita, init_args: {seed: 3}}}}
"""


def test_the_weights_of_a_run_reach_the_device(tmp_path):
    """Train by a recipe's settings, export from recipe and checkpoint: the program starts where training ended, feedback included."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    module = Classifier("mlp", {"in_features": 64, "hidden": [12]}, lr=0.05, momentum=0.0)
    trainer = L.Trainer(
        strategy=lf.ForwardOnlyStrategy(lf.Pepita(seed=3)),
        max_steps=3,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DriftDataModule("digits", batch_size=8, flatten=True))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    arguments = [
        "-c",
        tmp_path / "recipe.yaml",
        "--weights",
        tmp_path / "run.ckpt",
        "--batch",
        "2",
        "--steps",
        "3",
        "--out",
        tmp_path / "out",
    ]
    assert main(["export", *map(str, arguments)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["steps"] == 3 and report["weight_difference"] <= 1e-5
    constants = (tmp_path / "out" / "c" / "lfwd_constants.h").read_text()
    trained = read_checkpoint(tmp_path / "run.ckpt")["state_dict"]["network.classifier.bias"]
    assert f"{trained[0].item():.9g}"[:8] in constants


def test_recipe_settings():
    from pathlib import Path

    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "digits_pepita.yaml")
    assert recipe["model"] == "mlp" and recipe["dataset"] == "digits" and isinstance(recipe["method"], lf.Pepita)


class OwnData(L.LightningDataModule):
    """Not this library's: says nothing of its shape."""

    def setup(self, stage):
        self.samples = [(torch.zeros(3, 7), 1)] * 4

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.samples, 2)


@pytest.mark.parametrize(("data", "shape"), [
    ({"init_args": {"dataset": "digits"}}, (1, 8, 8)), ({"init_args": {"dataset": "digits", "flatten": True}}, (64,)),
    ({"class_path": f"{__name__}.OwnData"}, (3, 7)),
], ids=str)  # fmt: skip
def test_a_model_that_does_not_tell_its_input_gets_the_shape_of_the_recipes_data(tmp_path, data, shape):
    (tmp_path / "recipe.yaml").write_text(json.dumps({"model": {"init_args": {"model": "torch.nn.Identity"}}, "data": data}))
    options = argparse.Namespace(input_shape=None, model="torch.nn.Identity", model_args={})
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert build_model(options, 2, lambda: sample_shape(recipe["data"]))[1].shape == (2, *shape)
    with pytest.raises(ValueError, match="--input-shape"):
        build_model(options, 2, lambda: sample_shape({}))


def test_inserted_state_of_another_rule_is_left_alone():
    model, _ = tiny("mlp", lf.Pepita())
    before = model.inserted.feedback.matrix.clone()
    other = {"network._lfwd.feedback.matrix": torch.ones_like(before), "network._lfwd.counter": torch.tensor(3)}
    with pytest.warns(UserWarning, match=r"1 tensors that its rule inserted \(network._lfwd.feedback.matrix\).*Pepita\(seed=9\)"):
        load_inserted(model, {"lightning_fwd": {"method": "Pepita(seed=9)", "inserted": other}})
    assert torch.equal(model.inserted.feedback.matrix, before)


def test_files_that_are_no_recipe(tmp_path):
    (tmp_path / "bad.yaml").write_text("model: 3")
    for name in ("bad.yaml", "missing.yaml"):
        with pytest.raises(ExportError, match="no recipe"):
            read_recipe(tmp_path / name)


def test_what_cannot_work_is_said_before_any_work(tmp_path):
    model, (x, y) = tiny("mlp", lf.Backprop())
    with pytest.raises(ExportError, match="rewritten for inputs"):
        export(model, (x[:, :7], y), tmp_path / "out")
    with pytest.raises(ExportError, match="rewritten for inputs"):
        export(model, (x, y[:1]), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file"):
        export(model, (x, y), tmp_path / "file" / "out")
    with torch.no_grad():
        model.layer1.weight[0, 0] = float("nan")
    with pytest.raises(lf.LightningFwdError, match="layer1.weight is not finite"):
        export(model, (x, y), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rule", [lf.Pepita(mirror_interval=5), lf.SparseTraining(), lf.ForwardForward(greedy_steps=4)], ids=str)
def test_a_schedule_outside_the_step_is_refused(tmp_path, rule):
    model, batch = tiny("mlp", rule)
    with pytest.raises(ExportError, match="exported step would be without"):
        export(model, batch, tmp_path / "out")
