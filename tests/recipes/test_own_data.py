"""Comparisons on the user's own LightningDataModule: by class or as an object, its own target loaders, another module, or a drift."""

import csv
import dataclasses

import lightning as L
import pytest
import torch
import yaml
from torch.utils.data import DataLoader, TensorDataset

from lightning_fwd import LightningFwdError
from lightning_fwd.compare import Scenario, compare, load_scenario
from lightning_fwd.recipes import Training, as_plain, data_module


def clouds(count, shift=0, seed=0):
    """Three clouds in six directions, turned by ``shift`` of them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.nn.functional.one_hot(y, 6).float() * 2 + 0.3 * torch.randn(count, 6, generator=generator)
    return x.roll(shift, 1), y


class Clouds(L.LightningDataModule):
    """Knows nothing of this library; dict batches."""

    def __init__(self, shift: int = 0, first_label: int = 0):
        super().__init__()
        self.save_hyperparameters()
        self.asked = []

    def setup(self, stage):
        self.asked.append(stage)

    def _loader(self, count, shift, seed):
        x, y = clouds(count, shift, seed)
        return DataLoader([{"x": a, "y": b} for a, b in zip(x, y + self.hparams.first_label, strict=True)], 16)

    def train_dataloader(self):
        return self._loader(90, self.hparams.shift, 1)

    def val_dataloader(self):
        return self._loader(30, self.hparams.shift, 2)

    def test_dataloader(self):
        return self._loader(60, self.hparams.shift, 3)


class Moved(Clouds):
    """Has target loaders of its own, and no test part."""

    test_dataloader = L.LightningDataModule.test_dataloader

    def target_train_dataloader(self):
        return DataLoader(TensorDataset(*clouds(45, 1, 4)), 10)

    def target_test_dataloader(self):
        return DataLoader(TensorDataset(*clouds(45, 1, 5)), 10)


ROWS = [{"name": "none"}, {"name": "backprop", "method": "backprop"}]
BY_CLASS = {"class_path": "test_own_data.Clouds", "init_args": {"shift": 0}}
RECIPE = {"model": "mlp", "model_args": {"in_features": 6, "hidden": [8], "num_classes": 3}, "pretrain": {"epochs": 4, "lr": 0.1},
          "adapt": {"epochs": 4, "lr": 0.1}, "adapt_samples": 24, "controls": False, "seeds": [0], "rows": ROWS}  # fmt: skip


@pytest.mark.parametrize("data", [
    {"module": BY_CLASS, "target_module": {"class_path": "test_own_data.Clouds", "init_args": {"shift": 1}}},
    {"module": {"class_path": "test_own_data.Moved"}},
    {"module": BY_CLASS, "drift": "noise=1.0"},
], ids=["another module", "its own target", "a drift"])  # fmt: skip
def test_a_recipe_names_the_user_s_data_module(tmp_path, data):
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "data": data}))
    results = compare(load_scenario(file), tmp_path / "out", jobs=1)
    none, backprop = results
    assert none.accuracy_source > 90 and none.accuracy_drifted < none.accuracy_source - 5
    assert backprop.accuracy_adapted > none.accuracy_drifted or "drift" in data
    assert compare(load_scenario(file), tmp_path / "out", jobs=1) == results  # nothing runs again


def test_an_object_serves_as_well(tmp_path):
    own = Clouds()
    settings = {**RECIPE, "data": {"module": own, "drift": "noise=1.0"}, "rows": []}
    settings |= {name: Training(**settings[name]) for name in ("pretrain", "adapt")}
    scenario = Scenario(**settings)
    scenario.rows = [dataclasses.replace(load_row, name="backprop") for load_row in _rows()]
    compare(scenario, tmp_path / "out", jobs=1)
    assert [line["method"] for line in csv.DictReader((tmp_path / "out" / "results.csv").open())] == ["backprop"]
    assert own.asked == ["fit", "test"]  # read once
    said = yaml.safe_load((tmp_path / "out" / "scenario.yaml").read_text())["data"]["module"]
    assert said == {"class_path": "test_own_data.Clouds", "init_args": {"shift": 0, "first_label": 0}} == as_plain({"m": own})["m"]


def _rows():
    from lightning_fwd.compare import Row

    return [Row("backprop", "backprop")]


def test_parts_are_what_the_loaders_give():
    source, target = (data_module({"module": BY_CLASS, "drift": "noise=0.5"}, view=view) for view in ("source", "target"))
    x, y = source.tensors("test")
    assert torch.equal(x, clouds(60, 0, 3)[0]) and torch.equal(y, clouds(60, 0, 3)[1])
    assert len(source.tensors("val")[1]) == 30 and len(source.changed(train_samples=9).tensors("train")[1]) == 9
    assert not torch.equal(target.tensors("test")[0], x) and torch.equal(target.tensors("test", "source")[0], x)
    moved = data_module({"module": {"class_path": "test_own_data.Moved"}}, view="target")
    assert len(moved.tensors("val")[1]) == 4 and len(moved.tensors("train")[1]) == 41  # held out of the training part


class Loud(Clouds):
    """The same readings in other units, one channel always 7."""

    def _loader(self, count, shift, seed):
        x, y = clouds(count, shift, seed)
        x = torch.cat([100 * x + 1000, torch.full((count, 1), 7.0)], 1)
        return DataLoader(TensorDataset(x, y), 16)


def test_signals_drift_in_their_own_deviations():
    data = {"module": {"class_path": "test_own_data.Loud"}, "drift": "noise=0.5"}
    x, drifted = data_module(data).tensors("test")[0], data_module(data, view="target").tensors("test")[0]
    assert (drifted - x)[:, :6].std(0).div(x[:, :6].std(0)).sub(0.5).abs().max() < 0.2


class Broken(Clouds):
    def test_dataloader(self):
        raise FileNotFoundError("march.csv")


class NoTraining(Clouds):
    def train_dataloader(self):
        return []


@pytest.mark.parametrize(("data", "why"), [
    ({"module": BY_CLASS}, "neither a drift"),
    ({"module": {"class_path": "test_own_data.Broken"}, "drift": "noise=1"}, "march.csv"),
    ({"module": {"class_path": "test_own_data.NoTraining"}, "drift": "noise=1"}, "no train_dataloader"),
    ({"module": {"class_path": "os.system", "init_args": {"command": "true"}}, "drift": "noise=1"}, "LightningDataModule"),
    ({"module": {"class_path": "lightning.LightningDataModule"}, "drift": "noise=1"}, "train_dataloader"),
    ({"module": {"class_path": "test_own_data.Clouds", "init_args": {"colour": 1}}, "drift": "noise=1"}, "colour"),
    ({"module": "digits", "drift": "noise=1"}, "expected a LightningDataModule"),
    ({"module": BY_CLASS, "drift": "noise=1", "flatten": True}, "known keys"),
    ({"module": {"class_path": "test_own_data.Clouds", "init_args": {"first_label": 1}}, "drift": "noise=1"}, "never show 0"),
    ({"module": BY_CLASS, "target_module": {"class_path": "test_own_data.Clouds", "init_args": {"first_label": 1}}}, "the label 3"),
    ({"module": BY_CLASS, "drift": "noise=1", "train_samples": 1000}, "at most so many"),
])  # fmt: skip
def test_what_cannot_be_compared_on_is_said(data, why):
    with pytest.raises(LightningFwdError, match=why):
        data_module(data, view="target").prepare_data()
