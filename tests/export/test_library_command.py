"""``lightning-fwd export -c`` and ``adapt -c`` on one recipe: what is written, and that the board does what the host says."""

import json
import os
import shutil
import subprocess

import pytest
import torch
import yaml
from lightning_fwd_export.cli import export

import lightning_fwd as lf
from lightning_fwd.cli import main
from lightning_fwd.data import DriftDataModule
from lightning_fwd.models import build
from lightning_fwd.recipes import store_weights

needs_data = pytest.mark.skipif("LIGHTNING_FWD_DATA" not in os.environ, reason="LIGHTNING_FWD_DATA is not set")
DATA = {"dataset": "digits", "flatten": True, "drift": "contrast=0.3", "test_samples": 200}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return written(tmp_path_factory.mktemp("recipe"), DATA, {"hidden": [16]}, 60, (0.02, 0.005), torch.optim.SGD, 0.1, 8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """From raw sound: the features of speech, and a net on them."""
    data = {"dataset": "speech_commands", "val_fraction": 0, "flatten": True, "mfcc": "integer", "drift": "white_noise=0.1"}
    data["test_samples"] = 60
    return written(
        tmp_path_factory.mktemp("sound"),
        data,
        {"in_features": 490, "hidden": [16], "num_classes": 12},
        36,
        (1e-3, 1e-4),
        torch.optim.Adam,
        3e-3,
        30,
    )


def written(folder, data, model_args, labelled, rates, optimizer, lr, epochs):
    """A recipe of two stages, and the weights of a net trained on its source."""
    torch.manual_seed(0)
    net, source = build("mlp", **model_args), DriftDataModule(**data)
    source.prepare_data()
    source.setup("fit")
    optimizer = optimizer(net.parameters(), lr)
    for _ in range(epochs):
        for x, y in source.train_dataloader():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    store_weights(net, folder / "weights.safetensors")
    plain = {"batch_size": 1, "momentum": 0.0, "epochs": 4}
    stages = [
        {"name": "head", "method": "sparse_update", "settings": {"train": "head"}, "lr": rates[0], **plain},
        {"name": "all", "method": "backprop", "lr": rates[1], **plain},
    ]
    content = {
        "data": data,
        "model": "mlp",
        "model_args": model_args,
        "weights": str(folder / "weights.safetensors"),
        "labelled": labelled,
        "stages": stages,
        "firmware": {"samples": 60},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


@needs_data
@pytest.mark.board
def test_from_raw_sound_the_board_does_what_adapt_says(sound, tmp_path, emulator, capsys):
    """The board reads 16 bits a sample and makes the features itself, in integers: the same bits as on the host."""
    assert main(["adapt", "-c", str(sound), "--out", str(tmp_path / "host")]) == 0
    report = (tmp_path / "host" / "report.txt").read_text()
    assert "each input: 0.27 MMAC from sound to features" in report
    assert main(["export", "-c", str(sound), "--out", str(tmp_path / "c"), "--board", "mps2-an386", "--run", "--test-samples", "60"]) == 0
    done, written = (json.loads((tmp_path / "c" / f"{name}.json").read_text()) for name in ("adaptation", "report"))
    assert f"{done['before_percent']:.1f} % before, {done['after_percent']:.1f} % adapted" in report
    for stage in done["stages"]:
        assert f"loss {stage['before']:.3f} -> {stage['after']:.3f} on 12 samples; {stage['epochs']} epochs" in report
    assert done["ram_bytes"] == pytest.approx(sum(written["ram_bytes"].values()), abs=100)
    assert done["flash_bytes"] == pytest.approx(written["flash_bytes"]["Cortex-M4"], rel=0.03)
    assert written["input_macs"] == 274792 and written["ram_bytes"]["input"] == 2048


@pytest.mark.board
def test_the_board_does_what_adapt_says(recipe, tmp_path, emulator, capsys):
    assert main(["adapt", "-c", str(recipe), "--out", str(tmp_path / "host")]) == 0
    report = (tmp_path / "host" / "report.txt").read_text()
    command = ["export", "-c", str(recipe), "--out", str(tmp_path / "c"), "--board", "mps2-an386", "--run", "--test-samples", "200"]
    assert main(command) == 0
    done = json.loads((tmp_path / "c" / "adaptation.json").read_text())
    assert f"{done['before_percent']:.1f} % before, {done['after_percent']:.1f} % adapted" in report
    assert done["after_percent"] > done["before_percent"] and done["stages"][0]["outcome"] == "kept"
    for stage in done["stages"]:
        assert f"loss {stage['before']:.3f} -> {stage['after']:.3f} on 20 samples; {stage['epochs']} epochs" in report
    assert "lfwd_prepare" in (tmp_path / "c" / "c" / "lfwd_model.h").read_text()
    example = tmp_path / "c" / "example"
    ran = subprocess.run(["make", "-s", "-j2", "-C", str(example), "run"], check=True, capture_output=True, text=True).stdout
    before, after = (round(2 * done[f"{when}_percent"]) for when in ("before", "after"))
    kept = sum(stage["outcome"] == "kept" for stage in done["stages"])
    assert f"before: {before} of 200 right" in ran and f"after: {after} of 200 right, {kept} of 2 stages kept" in ran
    for command in (["cmake", "-B", "b", "-DCMAKE_TOOLCHAIN_FILE=toolchain.cmake"], ["cmake", "--build", "b", "-j2"]):
        if shutil.which("cmake"):
            subprocess.run(command, cwd=example, check=True, capture_output=True)
            assert command[1] == "-B" or (example / "b" / "example.elf").exists()
    written = json.loads((tmp_path / "c" / "report.json").read_text())
    assert written["stages"] == ["step_head", "step_all"] and written["steps"] == {"head": 8, "all": 8}


def test_what_the_recipe_says_is_not_said_twice(recipe, tmp_path, capsys):
    assert main(["export", "-c", str(recipe), "--out", str(tmp_path), "--lr", "0.5"]) != 0
    assert "--lr with the recipe of an adaptation" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_wrong_key_of_firmware_is_named(recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text()) | {"firmware": {"sample": 3}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    assert export.is_adaptation(tmp_path / "wrong.yaml")
    from lightning_fwd.recipes.adaptation import load_adaptation

    with pytest.raises(lf.LightningFwdError, match="firmware: unknown sample"):
        load_adaptation(tmp_path / "wrong.yaml")
