"""``lightning-fwd export --npu`` and the function behind it."""

import json
import re
import subprocess

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import missing_tools
from lightning_fwd_export.npu.export_learning import export_learning
from npu_nets import OnlyLogits

from lightning_fwd.cli import main


def test_the_folder_and_its_report(tiny, tmp_path):
    torch.manual_seed(0)
    report = export_learning(OnlyLogits(), torch.randn(16, 3, 8, 8), "ethos-u55-128", tmp_path)
    assert report.layers == ("stem", "point") and report.records == tiny.records and report.inferences_per_probed_image == 4
    assert json.loads((tmp_path / "report.json").read_text())["ram_bytes"] == report.ram_bytes
    subprocess.run(["make", "-C", str(tmp_path / "c")], check=True, capture_output=True)
    if missing_tools():
        return
    target = "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard"
    arm = ["CC=arm-none-eabi-gcc", "AR=arm-none-eabi-ar", f"TARGET={target}"]
    subprocess.run(["make", "-C", str(tmp_path / "c"), "clean"], check=True, capture_output=True)
    subprocess.run(["make", "-C", str(tmp_path / "c"), *arm], check=True, capture_output=True)
    sizes = subprocess.run(
        ["arm-none-eabi-nm", "-S", str(tmp_path / "c" / "lfwd_npu_records.o")], check=True, capture_output=True, text=True
    ).stdout
    (ram,) = re.findall(r"^\S+ (\S+) \S lfwd_npu$", sizes, re.MULTILINE)
    assert 0 <= int(ram, 16) - report.ram_bytes < 24  # alignment


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
    ],
)
def test_options_without_meaning_are_refused(given, why, tmp_path, capsys):
    assert main(["export", "--npu", "ethos-u55-128", "--model", "resnet8", "--out", str(tmp_path / "out"), *given]) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
