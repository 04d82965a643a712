"""The RAM that the report names is what the linker reserves, for nets whose generated program holds more than the step's tensors."""

import pytest
import torch
from lightning_fwd_export.boards import run_on_board
from lightning_fwd_export.generate_c import pte_to_c
from tiny_exports import export_module

import lightning_fwd as lf
from lightning_fwd.models import DSCNN, ResNet8

C_LIBRARY = 128  # bytes that newlib's exp and log bring along for errno, and alignment

HALF = {"block1": 0.5, "block2": 0.5}
CASES = [
    pytest.param(DSCNN, lf.SparseUpdate(train="head"), (1, 49, 10), 12, id="ds_cnn head", marks=pytest.mark.slow),
    pytest.param(ResNet8, lf.SparseUpdate(train=HALF, biases="all"), (3, 32, 32), 10, id="half of blocks 1-2", marks=pytest.mark.slow),
]


@pytest.mark.board
@pytest.mark.parametrize(("net", "method", "shape", "classes"), CASES)
def test_linked_ram_is_the_shipped_figure(tmp_path, emulator, record_property, net, method, shape, classes):
    torch.manual_seed(0)
    x, y = torch.randn(1, *shape), torch.randint(0, classes, (1,))
    model = lf.rewrite(net(), method, x)
    program, report = export_module.export_program(model, (x, y), tmp_path, lr=0.001, steps=2)
    checked = pte_to_c(program.data, tmp_path / "c")
    linked = run_on_board(tmp_path / "c", "mps2-an386", checked, []).ram
    record_property("ram", linked)
    record_property("ledger", report.ledger)
    assert report.ledger["shipped_ram_bytes"] == sum(report.ram.values())
    assert 0 <= linked - report.ledger["shipped_ram_bytes"] <= C_LIBRARY
    assert report.ledger["scheduled_ram_bytes"] <= report.ledger["shipped_ram_bytes"]
