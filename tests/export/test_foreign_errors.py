"""What others raise during an export comes out as an error of ours, with its cause."""

from importlib.util import find_spec

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.foreign import as_export_errors
from lightning_fwd_export.inference import export_inference
from lightning_fwd_export.npu import estimate, npu_forward
from lightning_fwd_export.npu.export_learning import export_learning
from lightning_fwd_export.npu.lower import lower
from torch import nn


@pytest.mark.parametrize("theirs", [NotImplementedError("no kernel"), RuntimeError(""), KeyError("x"), AssertionError()])
def test_foreign_exceptions_are_wrapped(theirs):
    with pytest.raises(ExportError, match=type(theirs).__name__) as caught, as_export_errors():
        raise theirs
    assert caught.value.__cause__ is theirs


@pytest.mark.parametrize("passes", [ExportError("ours"), OSError("disk"), MemoryError(), KeyboardInterrupt()])
def test_ours_and_the_machine_s_pass(passes):
    with pytest.raises(type(passes)) as caught, as_export_errors():
        raise passes
    assert caught.value is passes


def test_they_say_who_raised_it():
    with pytest.raises(ExportError, match="in torch while exporting") as caught, as_export_errors():
        torch.nn.functional.max_pool2d(torch.zeros(2), kernel_size="x")
    assert caught.value.__cause__ is not None


class Branches(nn.Module):
    """Control flow on values, which torch.export refuses in its own words."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize("int8", [True, False])
def test_a_network_that_cannot_be_traced(tmp_path, int8):
    x = torch.ones(1, 4)
    with pytest.raises(ExportError, match="while exporting"):
        export_inference(Branches(), x, tmp_path / "out", int8=int8, calibration=[x] if int8 else None, samples=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("net", "example"), [(None, torch.ones(1, 4)), (nn.Linear(4, 4), "text")])
def test_what_is_no_network_or_no_tensor_is_refused_at_every_door(tmp_path, net, example):
    with pytest.raises(ExportError, match="an nn.Module is exported"):
        export_inference(net, example, tmp_path / "out")
    if find_spec("ethosu"):
        with pytest.raises(ExportError, match="an nn.Module is exported"):
            npu_forward(net, example, "ethos-u55-128")
    with pytest.raises(ExportError, match="an nn.Module is exported"):
        export_learning(net, example, "ethos-u55-128", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_copied(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4))
    net.drawn = (k for k in range(3))
    with pytest.raises(ExportError, match="Sequential cannot be copied"):
        export_learning(net, torch.ones(2, 4), "ethos-u55-128", tmp_path / "out")


@pytest.mark.skipif(find_spec("ethosu") is None, reason="Vela is not installed: pip install -e '.[npu]'")
def test_what_the_compiler_of_the_npu_raises_is_wrapped(monkeypatch):
    def broken(*_):
        raise AssertionError("inside of the compiler")

    monkeypatch.setattr(estimate, "lower", broken)
    with pytest.raises(ExportError, match="AssertionError .* while exporting: inside of the compiler"):
        npu_forward(nn.Linear(4, 4), torch.ones(1, 4), "ethos-u55-128")
    with pytest.raises(ExportError, match="does not lower to ethos-u55-128") as caught:
        lower(Branches(), (torch.ones(1, 4),), "ethos-u55-128")
    assert "Data-dependent" in str(caught.value) and "\n\n" not in str(caught.value)


@pytest.mark.parametrize(("net", "why"), [(nn.Linear(5, 4), "fails on an input"), (nn.LSTM(4, 4), "returns tuple, not one tensor")])
def test_a_network_that_does_not_run_on_the_example_or_returns_several(tmp_path, net, why):
    with pytest.raises(ExportError, match=why):
        export_inference(net, torch.ones(1, 4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
