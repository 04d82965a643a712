"""``lightning-fwd export --npu`` and the function behind it."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import BOARDS, missing_tools
from lightning_fwd_export.npu.export_learning import export_learning
from npu_nets import OnlyLogits

from lightning_fwd.cli import main
from lightning_fwd.errors import LightningFwdError

OURS = "/* SPDX-License-Identifier: Apache-2.0 */"


SLOW = [pytest.param(train, marks=pytest.mark.slow) for train in ("head", "zeroth-order", "forward-forward")]  # test_c.py runs their C


@pytest.mark.parametrize("train", ["norms", *SLOW])
def test_the_folder_and_its_report(tiny, tmp_path, train):
    torch.manual_seed(0)
    (tmp_path / "c").mkdir()
    stale = {
        "step.pte": "",
        "c/lfwd_model.h": OURS,
        "c/lfwd_npu.h": OURS,
        "c/lfwd_npu_gone.c": OURS,
        "c/CMakeLists.txt": "project(lfwd_model C)",
    }
    kept = {"c/main.c": "int main(void) {}", "c/lfwd_npu_mine.c": "/* of the user's */"}
    for name, text in {**stale, **kept}.items():
        (tmp_path / name).write_text(text)
    report = export_learning(OnlyLogits(), torch.randn(16, 3, 8, 8), "ethos-u55-128", tmp_path, train)
    assert not any((tmp_path / name).exists() for name in ("step.pte", "c/lfwd_model.h", "c/lfwd_npu_gone.c", "c/CMakeLists.txt"))
    assert all((tmp_path / name).read_text() == text for name, text in kept.items())
    for path in kept:
        (tmp_path / path).unlink()
    phases = {phase.phase: phase for phase in report.phases}
    step, forward = phases["step of one sample"], phases["prediction"].cpu_only_instructions
    assert step.npu_cycles == report.cycles_per_sample and phases["statistics, per image"].cpu_only_instructions == forward > 0
    runs = step.cpu_only_instructions / forward
    assert runs == {"head": 1, "zeroth-order": 2, "forward-forward": 3}.get(train) or train == "norms" and 1.4 < runs < 3
    assert all(phase.energy_uj > 0 and phase.cpu_only_energy_uj > 0 for name, phase in phases.items() if name != "update")
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
    assert memory["lfwd_npu"] == report.ram_bytes
    assert (
        sum(size for name, size in model.items() if name not in ("lfwd_npu_layers", "lfwd_npu_norms", "lfwd_npu_gradients"))
        == report.flash_bytes
    )


def sizes_of(objects: Path) -> dict[str, int]:
    """Bytes of the data that an object file holds, by name."""
    names = subprocess.run(["arm-none-eabi-nm", "-S", str(objects)], check=True, capture_output=True, text=True).stdout
    return {name: int(size, 16) for size, name in re.findall(r"^\S+ (\S+) [BbRrDd] (\S+)$", names, re.MULTILINE)}


@pytest.mark.parametrize(
    ("accelerator", "why"), [("ethos-u65-256", "two memories"), ("ethos-u85-256", "stream repeats the scale"), ("ethos-u99", "unknown")]
)
def test_an_accelerator_that_cannot_learn_is_refused_with_the_reason(tmp_path, accelerator, why):
    with pytest.raises(ExportError, match=f"{accelerator}.*\n?.*{why}"):
        export_learning(OnlyLogits(), torch.randn(2, 3, 8, 8), accelerator, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--int8", "--dataset", "digits"], "--npu with --int8"),
        ([], "samples of the source domain"),
        (["--dataset", "digits", "--lr", "1"], "lfwd_train_begin"),
        (["--dataset", "digits", "--set", "train=norms"], "it sets a rule's options"),
        (["--dataset", "digits", "--prefix", "kws_"], "the names in this C are fixed"),
        (["--dataset", "digits", "--loss", "mse"], "the device learns from labels"),
        (["--dataset", "digits", "--inference"], "the C predicts"),
        (["--dataset", "digits", "--run"], "one of --board and --run"),
    ],
)
def test_options_without_meaning_are_refused(given, why, tmp_path, capsys):
    assert main(["export", "--npu", "ethos-u55-128", "--model", "resnet8", "--out", str(tmp_path / "out"), *given]) == 2
    assert why in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
@pytest.mark.parametrize(
    ("board", "samples", "why"),
    [("mps2-an385", 16, "no FPU"), ("mps9", 16, "no board 'mps9'"), ("mps3-an547", 7, "7 samples")],
)
def test_a_board_is_refused_before_anything_is_compiled(tmp_path, monkeypatch, board, samples, why):
    monkeypatch.setattr("lightning_fwd_export.npu.export_learning.TRAINS", {"head": None})
    with pytest.raises(ExportError, match=why):
        export_learning(OnlyLogits(), torch.randn(samples, 3, 8, 8), "ethos-u55-128", tmp_path / "out", board=board)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(bool(missing_tools()), reason="the cross-compiler is not installed")
def test_what_goes_wrong_on_the_board_leaves_the_folder_as_it_was(tiny, tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    before = {"report.json": "{}", "c/lfwd_npu_model.h": OURS, "c/lfwd_npu_model.c": OURS, "c/main.c": "int main(void) {}"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    small = replace(BOARDS["mps3-an547"], ram=(0x20000000, 4 << 10))
    monkeypatch.setitem(BOARDS, small.name, small)
    with pytest.raises(ExportError, match="does not fit"):
        export_learning(OnlyLogits(), torch.randn(16, 3, 8, 8), "ethos-u55-128", tmp_path, board=small.name)
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_not_finite_is_refused(tmp_path):
    net, samples = OnlyLogits(), torch.randn(2, 3, 8, 8)
    samples[1, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match="samples with values that are not finite"):
        export_learning(net, samples, "ethos-u55-128", tmp_path / "out")
    torch.nn.init.constant_(net.bn1.weight, torch.inf)
    with pytest.raises(LightningFwdError, match="bn1.weight is not finite"):
        export_learning(net, torch.randn(2, 3, 8, 8), "ethos-u55-128", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_train_is_an_option_of_the_npu_alone(tmp_path, capsys):
    assert main(["export", "--model", "resnet8", "--train", "norms", "--out", str(tmp_path / "out")]) == 2
    assert "--train without --npu" in capsys.readouterr().err.replace("\n", " ")


def test_what_cannot_train_is_refused(tmp_path):
    with pytest.raises(ExportError, match="'biases'"):
        export_learning(OnlyLogits(), torch.randn(2, 3, 8, 8), "ethos-u55-128", tmp_path / "out", "biases")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("train", ["head", "norms", "zeroth-order", "forward-forward"])
@pytest.mark.parametrize(("classes", "why"), [(1, "has 1 class,.*\n?.*nothing to learn"), (257, "has 257 classes,.*\n?.*one byte")])
def test_too_few_and_too_many_classes_are_refused(tmp_path, classes, why, train):
    net = OnlyLogits()
    net.classifier = torch.nn.Linear(16, classes)
    with pytest.raises(ExportError, match=why):
        export_learning(net, torch.randn(2, 3, 8, 8), "ethos-u55-128", tmp_path / "out", train)
    assert not (tmp_path / "out").exists()
