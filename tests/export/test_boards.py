"""The same 50 steps on the emulated boards as on the host runtime (which ``export`` has held against PyTorch before).

The whole matrix of rules, nets and boards, and its table: ``tools/benchmarks/board_table.py``.
"""

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError, export
from lightning_fwd_export.boards import BOARDS, run_on_board
from lightning_fwd_export.check import example_batches
from lightning_fwd_export.generate_c import pte_to_c
from lightning_fwd_export.host.runtime import HostProgram
from tiny_exports import export_module, tiny
from torch import nn

import lightning_fwd as lf

METHODS = {
    "tail": lf.SparseUpdate(train=2),
    "backprop": lf.Backprop(batch_norm="freeze"),
    "forward_forward": lf.ForwardForward(),
    "local_loss": lf.LocalLoss(),
    "pepita": lf.Pepita(),
    "direct_feedback": lf.DirectFeedback(),
    "pepita recompute": lf.Pepita(recompute=True),
    "pepita seeded": lf.Pepita(feedback="regenerated"),
    "sparse_update": lf.SparseUpdate(train={"classifier": 0.5}, biases="all"),
}
FAST = [  # each board, and each rule but those that another stands for, at least once
    ("tail", "conv", "mps2-an386"),
    ("forward_forward", "mlp", "mps2-an500"),
    ("pepita seeded", "mlp", "mps3-an547"),
    ("sparse_update", "conv", "mps3-an547"),
    ("local_loss", "mlp", "mps2-an386"),
    ("direct_feedback", "conv", "mps2-an386"),
]
ALL = [(m, n, b) for m in METHODS for n in ("mlp", "conv") for b in BOARDS if b != "mps2-an385"]  # no FPU: test_integer.py
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in FAST)]


def host_run(program, calls):
    host = HostProgram(program.data)
    outputs = [[t.numpy() for t in host.run(name, *inputs)] for name, inputs in calls]
    return outputs, np.concatenate([w.flatten().double().numpy() for w in host.run("get_weights")])


def learned(report, program):
    """What ``lfwd_get_weights`` gave, as numbers in the order of ``HostProgram.run("get_weights")``."""
    host, at, values = HostProgram(program.data), 0, []
    for w in host.run("get_weights"):
        size = w.numel() * w.element_size()
        values.append(np.frombuffer(report.weights[at : at + size], w.numpy().dtype).astype(np.float64))
        at += size
    assert at == len(report.weights)
    return np.concatenate(values)


@pytest.mark.board
@pytest.mark.parametrize(("method", "network", "board"), CASES)
def test_fifty_steps_on_a_board_equal_the_host(exported, emulator, record_property, method, network, board):
    program, report, out = exported(network, METHODS[method], steps=50)
    assert report.weight_difference <= 1e-5  # host runtime against PyTorch
    checked = pte_to_c(program.data, out / "c")
    _, batch = tiny(network, METHODS[method])
    takes_target = len(checked.methods["train_step"].inputs) == 2
    calls = [("train_step", (x, y) if takes_target else (x,)) for x, y in example_batches(batch, 4, 50)]
    calls.append(("forward", (batch[0],)))
    measured = run_on_board(out / "c", board, checked, calls)
    outputs, weights = host_run(program, calls)
    worst = max(
        float(np.abs(a - b).max()) for got, want in zip(measured.outputs, outputs, strict=True) for a, b in zip(got, want, strict=True)
    )
    drift = float(np.abs(learned(measured, program) - weights).max())
    for name, value in (
        ("outputs", worst),
        ("weights", drift),
        ("pytorch", report.weight_difference),
        ("step", measured.instructions_per("train_step")),
        ("inference", measured.instructions_per("forward")),
        ("flash", measured.flash),
        ("ledger_flash", report.flash_bytes[measured.board.cpu]),
        ("ram", measured.ram),
        ("ledger_ram", report.ledger["shipped_ram_bytes"]),
        ("stack", max(measured.stack.values())),
    ):
        record_property(name, value)
    assert measured.ram == pytest.approx(report.ledger["shipped_ram_bytes"], rel=0.02)
    assert measured.flash == pytest.approx(report.flash_bytes[measured.board.cpu], rel=0.05)
    assert worst <= 1e-5 * max(1.0, max(float(np.abs(o).max()) for call in outputs for o in call)) and drift <= 1e-5


BOARDS_FAST_FIRST = ["mps3-an547", *(pytest.param(b, marks=pytest.mark.slow) for b in BOARDS if b not in ("mps3-an547", "mps2-an385"))]


@pytest.mark.board
@pytest.mark.parametrize("board", BOARDS_FAST_FIRST)
def test_fifty_steps_behind_an_int8_body(tmp_path, emulator, board):
    """Images enter as int8, the head learns in float: features bit for bit, so weights to rounding."""
    model, batch = tiny("conv", lf.SparseUpdate(train="head"))
    calibration = [x for x, _ in example_batches(batch, 4, 8, seed=1)]
    program, report = export_module.export_program(
        model, batch, tmp_path, board=board, run=True, calibration=calibration, int8=True, lr=0.05, steps=50
    )
    figures = report.board
    assert figures["steps"] == 50 and report.weight_difference <= 1e-5
    assert figures["weight_difference_to_host"] <= 1e-5 and figures["prediction_difference_to_host"] <= 1e-5


class Int8Net(nn.Module):
    """Every int8 kernel with a fast body: convolution, depthwise, addition, pooling, linear; odd sizes, so every remainder runs."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 7, 3, 2, 1), nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.point, self.pool, self.head = nn.Conv2d(7, 7, 1), nn.AvgPool2d(3), nn.Linear(63, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.point(torch.relu(self.depthwise(x))) + x)
        return self.head(self.pool(x).flatten(1))


class Int8Signals(nn.Module):
    """The same in one dimension, with padding by name, pooling, a relu whose input has another reader, and a mean over time."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.depthwise = nn.Conv1d(3, 7, 9, 2, 4), nn.BatchNorm1d(7), nn.Conv1d(7, 7, 4, padding="same", groups=7)
        self.point, self.head = nn.Conv1d(7, 7, 1), nn.Linear(7, 5)

    def forward(self, x):
        x = nn.functional.max_pool1d(torch.relu(self.norm(self.stem(x))), 2)
        y = self.depthwise(x)
        y = nn.functional.avg_pool1d(torch.relu(y) + self.point(y), 3, 1, 1)
        return self.head((x + torch.relu(y)).mean(-1))


@pytest.fixture(scope="module", params=[(Int8Net, (3, 17, 19)), (Int8Signals, (3, 53))], ids=["images", "signals"])
def quantised(request, tmp_path_factory):
    torch.manual_seed(0)
    from lightning_fwd_export.int8 import channels_last, int8_inference

    net, shape = request.param
    calibration = [torch.randn(1, *shape) for _ in range(8)]
    program = bytes(int8_inference(net(), calibration, calibration[0]).to_executorch().buffer)
    code = tmp_path_factory.mktemp("int8") / "c"
    samples = [channels_last(torch.randint(-128, 128, (1, *shape), dtype=torch.int8)) for _ in range(4)]
    return program, pte_to_c(program, code, trust_unsealed=True), code, samples


@pytest.mark.board
@pytest.mark.parametrize("board", BOARDS_FAST_FIRST)
def test_int8_is_bit_identical_on_board_host_and_plain_kernels(quantised, emulator, board):
    """The logits of an int8 network before any training: the same bits from SMLAD, Helium, plain C and the host runtime."""
    program, checked, code, x = quantised
    operators = {call.operator for call in checked.methods["forward"].calls}
    assert "aten::convolution.out" not in operators and (x[0].dim() == 4 or "aten::clamp.out" in operators)
    calls = [("forward", (sample,)) for sample in x]
    host = HostProgram(program)
    expected = [host.run("forward", sample)[0].numpy() for sample in x]
    fast = run_on_board(code, board, checked, calls)
    plain = run_on_board(code, board, checked, calls, ("-O2", "-DLFWD_PLAIN"))
    for want, a, b in zip(expected, fast.outputs, plain.outputs, strict=True):
        assert want.dtype == np.int8 and np.array_equal(a[0], want) and np.array_equal(b[0], want)
    assert fast.instructions_per("forward") < plain.instructions_per("forward")


def test_a_missing_emulator_is_named_before_any_work(tmp_path, monkeypatch):
    model, batch = tiny("mlp", lf.Backprop())
    monkeypatch.setattr("lightning_fwd_export.boards.run.shutil.which", lambda tool: None)
    with pytest.raises(ExportError, match="qemu-system-arm"):
        export(model, batch, tmp_path / "out", board="mps2-an386", run=True)
    assert not (tmp_path / "out").exists()
