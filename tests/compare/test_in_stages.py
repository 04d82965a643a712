"""Rows of a comparison, and the command adapt, that take stages."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lightning_fwd import LightningFwdError
from lightning_fwd.adaptation import StageResult
from lightning_fwd.cli import main
from lightning_fwd.compare import Row, compare, load_scenario
from lightning_fwd.compare.folder import said_of
from lightning_fwd.methods import Backprop
from lightning_fwd.models import SmallConv
from lightning_fwd.recipes import Training, data_module, fit, quiet

DATA = {"dataset": "digits", "drift": "contrast=0.3"}
NET = {"model": "small_conv", "model_args": {"in_channels": 1, "widths": [8, 8]}}
STAGES = [
    {"method": "alignment", "settings": {"samples": 32, "strength": 0.5}},
    {"name": "wild", "method": "sparse_update", "settings": {"train": 2}, "lr": 1.0e4},
    {"name": "head", "method": "sparse_update", "settings": {"train": "head"}, "head": "blocks", "lr": [0.01, 0.1]},
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    quiet(0)
    net = SmallConv(1, (8, 8))
    fit(net, Backprop(), data_module(DATA, view="source"), Training(epochs=3, lr=0.05))
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(net.state_dict(), file)
    return str(file)


def test_a_row_in_stages_is_run_priced_and_says_what_was_rolled_back(tmp_path, weights):
    recipe = tmp_path / "scenario.yaml"
    rows = [{"name": "none"}, {"name": "statistics", "stages": [{"method": "statistics"}]}, {"name": "staged", "stages": STAGES}]
    recipe.write_text(
        yaml.safe_dump({"data": DATA, **NET, "weights": weights, "rows": rows, "controls": False, "seeds": [0], "adapt_samples": 90})
    )
    scenario = load_scenario(recipe)
    none, statistics, staged = compare(scenario, tmp_path / "out", jobs=1)
    assert none.accuracy_drifted < statistics.accuracy_adapted < staged.accuracy_adapted
    assert staged.peak_ram_bytes > statistics.peak_ram_bytes > 0 and staged.macs_per_step >= statistics.macs_per_step > 0
    assert "; rolled back: wild" in staged.note and "GMAC" in staged.note
    assert "rolled back" not in statistics.note and "chosen" not in statistics.note
    kept, back = StageResult("head", True, "lr 0.1", 1.0, 0.5, 30), StageResult("wild", False, "lr 9", 1.0, 2.0, 30, "it does harm")
    assert said_of([kept, back]) == "chosen: head (lr 0.1); rolled back: wild (it does harm)" and said_of([]) == ""
    assert compare(load_scenario(recipe), tmp_path / "out", jobs=1) == [none, statistics, staged]  # finished rows are known again


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"stages": STAGES, "method": "pepita"}, "method beside stages"),
        ({"stages": STAGES, "after_statistics": True}, r"after_statistics beside stages[\s\S]*\{method: statistics\}"),
        ({"stages": [{"method": "no_rule"}]}, "row 'a': unknown method"),
        ({"stages": [{"method": "statistics", "rate": 1}]}, "row 'a': stages: unknown rate"),
    ],
)
def test_mistakes_in_stages_are_told_by_row(row, message):
    with pytest.raises(LightningFwdError, match=message):
        Row("a", **row)


def test_the_command_adapts_and_writes_what_it_did(tmp_path, weights, capfd):
    recipe, out = tmp_path / "adapt.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({"data": DATA, **NET, "weights": weights, "labelled": 60, "unlabelled": 40, "stages": STAGES}))
    assert main(["adapt", "-c", str(recipe), "--out", str(out)]) == 0
    said = (out / "report.txt").read_text()
    assert "wild: rolled back" in said and "as one: peak" in said and "head: kept" in said
    assert capfd.readouterr().out.count("\n") > said.count("\n")
    state = load_file(out / "adapted.safetensors")
    assert state["classifier.weight"].shape == (10, 16) and all(t.isfinite().all() for t in state.values() if torch.is_floating_point(t))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "an adaptation is a list of stages"),
        ({"pretrain": {"epochs": 1}}, "starts from trained weights"),
        ({"labels": 3}, "unknown labels"),
        ({"weights": None}, "was built as drawn"),
        ({"labelled": 10**6}, "labelled"),
        ({"held_back": -0.1}, "held_back=-0.1"),
        ({"data": DATA | {"train_samples": 60}}, "the number of labelled samples is the key labelled"),
        ({"data": DATA | {"seed": 1}}, "seed=1   why:  it is a key of the recipe"),
        ({"data": DATA | {"view": "target"}}, "both views"),
    ],
)
def test_mistakes_in_the_recipe_end_in_advice(tmp_path, weights, capfd, changes, message):
    recipe = tmp_path / "adapt.yaml"
    recipe.write_text(yaml.safe_dump({"data": DATA, **NET, "weights": weights, "stages": STAGES, **changes}))
    assert main(["adapt", "-c", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert message in capfd.readouterr().err.replace("\n", " ") and not (tmp_path / "out").exists()
