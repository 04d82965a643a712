"""``lightning-fwd export --npu`` and the function behind it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import missing_tools
from lightning_fwd_export.npu.export_learning import export_learning
from npu_nets import OnlyLogits

from lightning_fwd.cli import main


@pytest.mark.parametrize("train", ["head", "norms", "zeroth-order"])
def test_the_folder_and_its_report(tiny, tmp_path, train):
    torch.manual_seed(0)
    report = export_learning(OnlyLogits(), torch.randn(16, 3, 8, 8), "ethos-u55-128", tmp_path, train)
    assert report.layers == ("stem", "point") and report.inferences_per_probed_image == 4
    assert report.records > tiny.records if train == "norms" else report.records == tiny.records
    assert (report.cycles_per_way_back > 0) == (train == "norms") and report.cycles_per_inference > 0
    assert json.loads((tmp_path / "report.json").read_text())["ram_bytes"] == report.ram_bytes
    subprocess.run(["make", "-C", str(tmp_path / "c")], check=True, capture_output=True)
    if missing_tools():
        return
    target = "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard"
    arm = ["CC=arm-none-eabi-gcc", "AR=arm-none-eabi-ar", f"TARGET={target}"]
    subprocess.run(["make", "-C", str(tmp_path / "c"), "clean"], check=True, capture_output=True)
    subprocess.run(["make", "-C", str(tmp_path / "c"), *arm], check=True, capture_output=True)
    memory, model = (sizes_of(tmp_path / "c" / f"lfwd_npu_{part}.o") for part in ("records", "model"))
    assert 0 <= memory["lfwd_npu"] - report.ram_bytes < 24  # alignment
    assert (
        sum(size for name, size in model.items() if name not in ("lfwd_npu_layers", "lfwd_npu_norms", "lfwd_npu_gradients"))
        == report.flash_bytes
    )


def sizes_of(objects: Path) -> dict[str, int]:
    """Bytes of the data that an object file holds, by name."""
    names = subprocess.run(["arm-none-eabi-nm", "-S", str(objects)], check=True, capture_output=True, text=True).stdout
    return {name: int(size, 16) for size, name in re.findall(r"^\S+ (\S+) [BbRrDd] (\S+)$", names, re.MULTILINE)}


def test_an_accelerator_that_is_not_simulated_is_refused(tmp_path):
    with pytest.raises(ExportError, match="ethos-u85-256"):
        export_learning(OnlyLogits(), torch.randn(2, 3, 8, 8), "ethos-u85-256", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--int8", "--dataset", "digits"], "--npu with --int8"),
        ([], "samples of the source domain"),
        (["--dataset", "digits", "--lr", "1"], "--lr"),
        (["--dataset", "digits", "--run"], "one of --board and --run"),
    ],
)
def test_options_without_meaning_are_refused(given, why, tmp_path, capsys):
    assert main(["export", "--npu", "ethos-u55-128", "--model", "resnet8", "--out", str(tmp_path / "out"), *given]) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_train_is_an_option_of_the_npu_alone(tmp_path, capsys):
    assert main(["export", "--model", "resnet8", "--train", "norms", "--out", str(tmp_path / "out")]) == 2
    assert "--train without --npu" in capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_train_is_refused(tmp_path):
    with pytest.raises(ExportError, match="'biases'"):
        export_learning(OnlyLogits(), torch.randn(2, 3, 8, 8), "ethos-u55-128", tmp_path / "out", "biases")
    assert not (tmp_path / "out").exists()
