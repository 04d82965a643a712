"""What others raise during an export comes out as an error of ours, with its cause."""

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.export_inference import export_inference
from lightning_fwd_export.foreign import as_export_errors
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
        export_inference(Branches(), x, tmp_path / "out", int8=int8, calibration=[x], samples=1)
    assert not (tmp_path / "out").exists()
