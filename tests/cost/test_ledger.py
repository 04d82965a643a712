"""The report: consistent, plain data, readable, and honest about devices."""

import json

import pytest
import torch
from step_nets import batch_for, conv
from torch import nn

import lightning_fwd as lf
from lightning_fwd.cli import main
from lightning_fwd.cost import load_device, price, step_cost
from lightning_fwd.cost.plot import plot_memory
from lightning_fwd.cost.report import _schedule
from lightning_fwd.models import ResNet8, SmallConv
from lightning_fwd.trace import trace_step


@pytest.mark.parametrize("method", ["local_loss", "pepita"])
def test_the_model_is_left_as_it_was(method):
    net = SmallConv()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    step_cost(net, batch_for(net), method=method)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())


@pytest.fixture(scope="module", params=sorted(lf.METHODS))
def traced(request):
    """A rule's step, once for all widths."""
    net = SmallConv()
    model = lf.rewrite(net, request.param, torch.zeros(2, 1, 8, 8))
    return model, trace_step(model, batch_for(net)), request.param


@pytest.mark.parametrize("width", ["fp32", pytest.param("int8", marks=pytest.mark.slow), "mixed"])
def test_report_is_consistent(traced, width):
    model, graph, method = traced
    report = price(graph, model, device=load_device("stm32h735"), width=width)
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["total_macs"] == sum(line["macs"] for line in plain["by_phase_and_layer"]) > 0
    assert sum(plain["ram_bytes_by_category"].values()) == plain["peak_ram_bytes"] == sum(t["bytes"] for t in plain["peak_tensors"])
    assert plain["flash_bytes"] == sum(plain["flash_bytes_by_category"].values())
    assert sum(sum(phases.values()) for phases in report.macs_by_arithmetic.values()) == plain["total_macs"]
    assert report.latency_s == pytest.approx(
        sum(report.device.latency_s(macs, arithmetic) for arithmetic, macs in report.macs_by_arithmetic.items())
    )
    assert report.verdict.fits and report.energy_j > 0
    assert report.parameters_trained + report.parameters_frozen == sum(
        p.numel() for p in lf.rewrite(SmallConv(), method, torch.zeros(2, 1, 8, 8)).parameters()
    )


def test_widths_order_memory():
    net = conv()
    batch = batch_for(net, 4)
    wide, mixed, narrow = (
        step_cost(net, batch, width=w, method=lf.SparseUpdate(train=1)).peak_ram_bytes for w in ("fp32", "mixed", "int8")
    )
    assert narrow <= mixed < wide


def test_does_not_fit_names_the_tensors():
    net = ResNet8()
    report = step_cost(net, batch_for(net, 8), device="stm32g474re")
    assert not report.verdict.fits
    assert "does not fit" in report.verdict_text and "activations" in report.verdict_text
    assert report.verdict.ram_margin_bytes == int(report.device.sram_bytes.value) - report.peak_ram_bytes


def test_report_reads_as_text():
    net = SmallConv()
    text = str(step_cost(net, batch_for(net), device=load_device("cortex_m4_qemu"), width="int8", method="pepita"))
    for expected in (
        "stage1.conv",
        "second_forward",
        "feedback matrix",
        "peak RAM as traced",
        "instruction",
        "Not counted",
    ):
        assert expected in text


def test_a_batch_without_labels():
    net = SmallConv()
    x, y = batch_for(net)
    assert step_cost(net, x, method="local_loss").to_dict() == step_cost(net, (x, y), method="local_loss").to_dict()


def test_plot(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    report = step_cost(SmallConv(), torch.zeros(1, 1, 8, 8), method="pepita")
    plot_memory(report, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    with pytest.raises(lf.LightningFwdError, match="cannot write"):
        plot_memory(report, tmp_path / "missing" / "memory.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(lf.LightningFwdError, match="plots"):
        plot_memory(report, tmp_path / "again.png")


def test_command(tmp_path, capsys):
    path = tmp_path / "cost.json"
    arguments = ["--model", "small_conv", "--method", "pepita", "--device", "stm32h735", "--width", "int8"]
    assert main(["cost", *arguments, "--json", str(path), "--plot", str(tmp_path / "m.png")]) == 0
    written = json.loads(path.read_text())
    assert written["device"] == "stm32h735" and written["fits"] and written["macs_by_phase"]["second_forward"] > 0
    assert (tmp_path / "m.png").exists()
    assert "Peak RAM" in capsys.readouterr().out
    assert main(["cost", "--book"]) == 0
    assert "50,136,132" in capsys.readouterr().out
    assert main(["cost"]) == 2
    assert "no model" in capsys.readouterr().err
    assert main(["cost", *arguments, "--json", str(tmp_path / "no" / "x.json")]) == 2
    assert main(["cost", "--model", "small_conv", "--device", "nonsense"]) == 2
    assert "unknown device" in capsys.readouterr().err


def test_untraceable_layers_are_named():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.shape[0] > 0 and len(str(x.dtype)) > 3 else -x

    net = nn.Sequential(nn.Linear(6, 6), Branch(), nn.Linear(6, 3))
    notes = step_cost(net, torch.zeros(2, 6)).not_counted
    assert any(note.startswith("1: kept whole") for note in notes)


@pytest.mark.parametrize(("method", "on_npu", "on_cpu"), [("backprop", 0, 640), ("sparse_update", 200, 160)])
def test_an_npu_takes_the_layers_that_do_not_learn(method, on_npu, on_cpu):
    """10-20-4, MAC: forward 200 + 80, update likewise, backward 80. The NPU's figure holds for constant weights, whatever the phase."""
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    report = step_cost(net, torch.zeros(1, 10), device="stm32n657", width="int8", method=method)
    assert report.latency_s * 800e6 == pytest.approx(on_npu * 0.0267 + on_cpu * 0.38)
    assert report.on(load_device("stm32h735")).latency_s * 550e6 == pytest.approx(3 * (on_npu + on_cpu))


def test_the_schedule_shows_what_changed_the_peak_and_why_it_may_rise_on_the_way():
    savings = (("as traced", 90), ("parts", 90), ("at once", 95), ("streamed", 95), ("reordered", 70))
    assert list(_schedule(savings)) == [("peak RAM as traced", 90), ("then at once (for the passes below)", 95), ("then reordered", 70)]
