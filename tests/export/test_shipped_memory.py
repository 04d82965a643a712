"""RAM and Flash that the report names, without a linker, are what the linker makes of it: also where a program holds more than its step's
tensors."""

import re

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.boards import run_on_board
from lightning_fwd_export.code_size import LOOP_TABLE, code_size, table
from lightning_fwd_export.code_size.calls import own_code
from lightning_fwd_export.code_size.count import digest
from lightning_fwd_export.generate_c import FIRMWARE, pte_to_c
from lightning_fwd_export.inference import export_inference
from tiny_exports import export_module
from torch import nn

import lightning_fwd as lf
from lightning_fwd.models import DSCNN, ResNet8


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(5, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


HALF = {"block1": 0.5, "block2": 0.5}
CASES = [
    pytest.param(Recurrent, lf.Backprop(), (9, 5), 4, id="gru", marks=pytest.mark.slow),
    pytest.param(DSCNN, lf.SparseUpdate(train="head"), (1, 49, 10), 12, id="ds_cnn head", marks=pytest.mark.slow),
    pytest.param(ResNet8, lf.SparseUpdate(train=HALF, biases="all"), (3, 32, 32), 10, id="half of blocks 1-2", marks=pytest.mark.slow),
]


@pytest.mark.board
@pytest.mark.parametrize(("net", "method", "shape", "classes"), CASES)
def test_linked_memory_is_the_shipped_figure(tmp_path, emulator, record_property, net, method, shape, classes):
    torch.manual_seed(0)
    x, y = torch.randn(1, *shape), torch.randint(0, classes, (1,))
    model = lf.rewrite(net(), method, x)
    program, report = export_module.export_program(model, (x, y), tmp_path, lr=0.001, steps=2)
    checked = pte_to_c(program.data, tmp_path / "c")
    assert report.ledger["shipped_ram_bytes"] == sum(report.ram_bytes.values())
    assert report.ledger["scheduled_ram_bytes"] <= report.ledger["shipped_ram_bytes"]
    for board in ("mps2-an386", "mps3-an547"):
        linked = run_on_board(tmp_path / "c", board, checked, [])
        record_property(board, (linked.ram, report.ledger["shipped_ram_bytes"], linked.flash, report.flash_bytes[linked.board.cpu]))
        assert linked.ram == pytest.approx(report.ledger["shipped_ram_bytes"], rel=0.02)
        assert linked.flash == pytest.approx(report.flash_bytes[linked.board.cpu], rel=0.05)


@pytest.mark.board
def test_an_inference_too(tmp_path, emulator):
    torch.manual_seed(0)
    net, xs = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)), [torch.randn(1, 20) for _ in range(3)]
    _, report = export_inference(net, xs[0], tmp_path, board="mps2-an386", run=True, int8=True, calibration=xs, inputs=xs)
    assert report.board["ram_bytes"] == pytest.approx(report.ledger["shipped_ram_bytes"], rel=0.02)
    assert report.board["flash_bytes"] == pytest.approx(report.ledger["shipped_flash_bytes"], rel=0.05)


def test_the_table_is_of_these_kernels():
    assert table()["kernels"] == digest(), "kernels changed: run  python -m lightning_fwd_export.code_size.count"
    assert table(LOOP_TABLE)["firmware"] == digest(FIRMWARE), "run  python -m lightning_fwd_export.code_size.count --firmware"


def test_calls_cost_what_their_arguments_do():
    """Thumb-2 by hand: registers saved, then each call."""

    def function(*statements, parameters="float y[2]"):
        tensors = ["float *const t1 = (void *)(lfwd_activations + 0);", "float *const t2 = (void *)(lfwd_activations + 64);"]
        lines = "\n".join(f"    {line}" for line in [*tensors, *statements])
        return own_code(f"void lfwd_forward({parameters})\n{{\n{lines}\n}}\n") - own_code("void lfwd_forward(void)\n{\n}\n")

    call = 4
    assert function("lfwd_relu_f32(t1, 8, t1);") == call + 4 + 2 + 2  # an address, a small literal, the address that is held
    assert function("lfwd_relu_f32(t1, 300, t2);") == call + 4 + 4 + 4
    twice = function("lfwd_f32(t1, &shape_0, t2);", "lfwd_f32(t1, &shape_0, t2);")
    assert twice == 2 * call + 2 * 2 + 4 + (4 + 4) + (2 + 2)  # the literal lies behind the function once; addresses are held
    assert function("lfwd_f32(t1, t1, t1, t1, 1, 2);") == call + 4 + 3 * 2 + 2 * (2 + 3)  # the fifth and sixth on the stack
    assert function("memcpy(t2, t1, 64);") == 3 * 6 + 8 + 4 + 4 and function("memcpy(t2, t1, 68);") == call + 4 + 4 + 2
    assert function("memset(t2, 0, 8);") == 8 + 4
    assert function("memcpy(w + 0, t1, 16);", parameters="uint8_t w[16]") == 20 + 4
    assert function("lfwd_sgd_f32(t1, t2, 8, lfwd_rate, 1.0f);") == call + 4 + 4 + 2 + 2 * (4 + 4)


def test_what_was_never_counted_is_an_error():
    source = (
        "void lfwd_forward(const float input[2], float logits[2])\n{\n    lfwd_new_f32(t1, (lfwd_axis){1, 2, 3}, t2); /* lfwd::new */\n}\n"
    )
    with pytest.raises(ExportError, match=re.escape("lfwd_new_f32 was never counted")):
        code_size(source)
    with pytest.raises(ExportError, match="no code sizes of Cortex-M99"):
        code_size("", "Cortex-M99")
