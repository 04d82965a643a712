"""What Vela says of a forward pass on an Ethos-U, and the device profile made of it."""

from importlib.util import find_spec

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu import npu_forward, write_profile
from torch import nn

from lightning_fwd.cli import main
from lightning_fwd.cost import load_device, step_cost

needs_vela = pytest.mark.skipif(find_spec("ethosu") is None, reason="Vela is not installed: pip install -e '.[npu]'")


def small_conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)
    )


@needs_vela
def test_a_network_on_the_npu_and_its_profile(tmp_path):
    net, x = small_conv(), torch.randn(1, 3, 8, 8)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    forward = npu_forward(net, x, "ethos-u55-128")
    assert forward.macs == 64 * 9 * 16 * (3 + 16) + 10240
    assert forward.parts == 1 and forward.on_cpu == {}
    assert forward.macs / 128 < forward.cycles < forward.macs  # 128 MAC per cycle at best
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())

    write_profile(forward, tmp_path / "mine.yaml")
    device = load_device(tmp_path / "mine.yaml")
    assert device.name == "mine" and device.constant_weights_only
    assert device.cycles({"forward": forward.macs}, "int8") == pytest.approx(forward.cycles, rel=1e-3)
    built_in = load_device("ethos_u55_128")
    assert device.cycles({"default": 1000}, "int8") == built_in.cycles({"default": 1000}, "int8")
    assert step_cost(net, x, tmp_path / "mine.yaml", "int8").latency_s > 0

    board = load_device("ethos_u55_128_m55")
    write_profile(forward, tmp_path / "board.yaml", board)
    mine = load_device(tmp_path / "board.yaml")
    assert mine.cycles({"forward": forward.macs}, "int8") == pytest.approx(forward.cycles, rel=1e-3)
    assert mine.cycles({"default": 1000}, "int8") == board.cycles({"default": 1000}, "int8") != device.cycles({"default": 1000}, "int8")


@needs_vela
@pytest.mark.slow
def test_more_arithmetic_units_take_fewer_cycles():
    net, x = small_conv(), torch.randn(1, 3, 8, 8)
    assert npu_forward(net, x, "ethos-u85-256").cycles < npu_forward(net, x, "ethos-u55-128").cycles


@needs_vela
def test_what_the_npu_does_not_take_is_named():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), nn.Linear(36, 3))
    forward = npu_forward(net, torch.randn(1, 1, 8, 8), "ethos-u55-128")
    assert forward.parts >= 1


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(ExportError, match="ethos-u99"):
        npu_forward(small_conv(), torch.randn(1, 3, 8, 8), "ethos-u99")


def test_without_vela_it_is_told_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("lightning_fwd_export.npu.lower.find_spec", lambda name: None)
    assert main(["npu", "--model", "streaming_wake_word"]) == 2
    assert "pip install -e '.[npu]'" in capsys.readouterr().err.replace("\n", " ")


def test_an_unknown_base_is_refused_before_the_work(tmp_path, capsys):
    assert main(["npu", "--model", "streaming_wake_word", "--profile", str(tmp_path / "mine.yaml"), "--base", "no_board"]) == 2
    assert "no_board" in capsys.readouterr().err


def test_a_profile_that_is_no_yaml_is_refused_before_the_work(tmp_path):
    assert main(["npu", "--model", "streaming_wake_word", "--profile", str(tmp_path / "profile")]) == 2
