"""Layers and settings beyond the two small nets: each equals PyTorch for some steps, or is refused by name before anything is written."""

import os
import warnings

import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.host.runtime import HostProgram
from lightning_fwd_export.pte import read_program
from lightning_fwd_export.quiet import quiet, quiet_stderr
from tiny_exports import export_module
from torch import nn

import lightning_fwd as lf
from lightning_fwd.methods import SparseTraining, ZerothOrder

BY_GOODNESS = lf.ForwardForward(prediction="goodness", goodness="sum")
DYNAMIC = lf.SparseUpdate(2, error_density=(0.2, 0.6))


def mlp(*between):
    return nn.Sequential(nn.Linear(20, 16), *between, nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def conv(*layers, features):
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 4))


class Halved(nn.Module):
    """ResNet-8's own: padded at one end only, and the first row and column cropped on the way."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, 2), nn.Linear(4, 4)

    def forward(self, x):
        y = nn.functional.pad(self.conv(nn.functional.pad(self.stem(x).relu(), (0, 1, 0, 1))), (-1, 2, 0, -1), value=0.5)
        return self.head(y.relu().mean((2, 3)))


class SelfAttention(nn.Module):
    """Queries, keys and values from one product and one permutation of five dimensions, windows by one of six."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(12, 36), nn.Linear(12, 4)

    def forward(self, x):
        x = x.unflatten(1, (2, 2, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(1, 4)
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 6)).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(x.amax(1))


NETS = {
    "attention": lambda: (SelfAttention(), (16, 12)),
    "padding at one end": lambda: (Halved(), (2, 8, 8)),
    "max pooling": lambda: (
        conv(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), features=32),
        (2, 8, 8),
    ),
    "average pooling, padded": lambda: (
        conv(nn.ReLU6(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(8, 8, 1), nn.AvgPool2d(2), features=32),
        (2, 8, 8),
    ),
    "adaptive pooling": lambda: (conv(nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2)), nn.Conv2d(8, 8, 1), nn.ReLU(), features=48), (2, 7, 8)),
    "one dimension": lambda: (
        nn.Sequential(
            nn.Conv1d(2, 8, 5, 2, 2),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 8, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ),
        (2, 16),
    ),
    "one column": lambda: (
        nn.Sequential(
            nn.Conv2d(4, 4, (5, 1), groups=4),
            nn.Conv2d(4, 8, (3, 1), (2, 1), (1, 0)),
            nn.ReLU(),
            nn.Conv2d(8, 8, (7, 1), groups=8),
            nn.Flatten(),
            nn.Linear(8, 4),
        ),
        (4, 17, 1),
    ),
    "norms": lambda: (
        conv(nn.GroupNorm(2, 8), nn.ELU(), nn.Conv2d(8, 4, 3, 2, 1), nn.InstanceNorm2d(4), nn.GELU("tanh"), features=64),
        (2, 8, 8),
    ),
    "layer norm": lambda: (mlp(nn.LayerNorm(16), nn.GELU()), (20,)),
    "batch norm": lambda: (conv(nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4), features=32), (2, 8, 8)),
    "dropout": lambda: (mlp(nn.ReLU(), nn.Dropout(0.3)), (20,)),
    "dropout of channels": lambda: (conv(nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), features=128), (2, 8, 8)),
    "plain": lambda: (mlp(nn.ReLU()), (20,)),
}
CASES = [
    ("max pooling", lf.Backprop(), {}), ("norms", lf.Backprop(), {}), ("dropout", lf.SparseUpdate(), {}),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("padding at one end", lf.Backprop(), {}), ("one dimension", lf.Backprop(), {}), ("plain", DYNAMIC, {"momentum": 0.9}),
        ("adaptive pooling", lf.LocalLoss(), {}), ("attention", lf.Backprop(), {}), ("batch norm", lf.Backprop(), {"momentum": 0.9}),
        ("average pooling, padded", lf.Backprop(), {}), ("layer norm", lf.Backprop(), {}), ("dropout of channels", lf.LocalLoss(), {}),
        ("one dimension", lf.Pepita(), {}), ("dropout", lf.ForwardForward(), {}), ("plain", DYNAMIC, {}), ("one column", lf.Backprop(), {}),
        ("plain", BY_GOODNESS, {}),
    )),
]  # fmt: skip


def rewritten(net, method, batch=3):
    torch.manual_seed(0)
    module, shape = NETS[net]()
    x, y = torch.randn(batch, *shape), torch.randint(0, 4, (batch,))
    return lf.rewrite(module, method, x), (x, y)


@pytest.mark.parametrize(("net", "method", "settings"), CASES, ids=str)
def test_some_steps_equal_pytorch(tmp_path, net, method, settings):
    model, batch = rewritten(net, method)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    _, report = export_module.export_program(model, batch, tmp_path, lr=0.02, steps=6, **settings)
    assert report.weight_difference <= 1e-5 and (tmp_path / "c/lfwd_model.c").exists()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # dropout too is exchanged in a copy only


def test_dropout_in_a_frozen_body_leaves_it_in_int8(tmp_path, caplog):
    net = conv(nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Dropout(0.3), features=128)
    x, y = torch.randn(1, 2, 8, 8), torch.tensor([1])
    program, _ = export_module.export_program(
        lf.rewrite(net, lf.SparseUpdate(), x), (x, y), tmp_path, int8=True, calibration=[torch.randn_like(x) for _ in range(8)], steps=5
    )
    step = [c.operator for c in read_program(program.data).methods["train_step"].calls]
    assert step.count("lfwd::quantized_conv2d.out") == 2 and "aten::convolution.out" not in step
    assert not [r for r in caplog.records if r.name.startswith(("executorch", "torchao"))]


@pytest.mark.slow
def test_what_the_int8_body_costs_is_reported(tmp_path):
    """Calibrated on images far too faint the body saturates: the step still equals its own PyTorch run, its predictions are no longer the
    model's."""
    torch.manual_seed(0)
    net = conv(nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), features=128)
    x, y = torch.randn(4, 2, 8, 8), torch.tensor([1, 0, 2, 3])
    model = lf.rewrite(net, lf.SparseUpdate(), x)

    def same(calibration):
        _, report = export_module.export_program(model, (x, y), tmp_path, int8=True, calibration=[calibration] * 4, steps=8)
        return report.same_predictions

    assert same(x) >= 0.9 and same(x / 50) <= 0.8


@pytest.mark.board
@pytest.mark.parametrize(("net", "method"), [
    ("batch norm", lf.Backprop()),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("attention", lf.Backprop()),
        ("dropout", lf.Backprop()), ("plain", DYNAMIC), ("plain", BY_GOODNESS), ("max pooling", lf.Backprop()),
        ("one dimension", lf.LocalLoss()), ("norms", lf.Backprop()), ("batch norm", lf.Statistics()), ("plain", ZerothOrder()),
        ("plain", SparseTraining(fraction=0.0)),
    )),
], ids=str)  # fmt: skip
def test_on_a_board_too(tmp_path, emulator, net, method):
    model, batch = rewritten(net, method)
    _, report = export_module.export_program(model, batch, tmp_path, lr=0.02, steps=50, board="mps2-an386", run=True)
    assert report.board["weight_difference_to_host"] <= 1e-5 and report.board["prediction_difference_to_host"] <= 1e-5


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.mix(x).mean(1))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.head = nn.ConvTranspose2d(2, 4, 2, 2), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.up(x).relu().mean((2, 3)))  # the line that an error names


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Stepping(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        h = torch.zeros(2, 5)
        for k in range(70):
            h = self.cell(x[:, k], h)
        return self.head(h)


def volumes():
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(16, 4))


REFUSED = {
    "transposed": (
        Transposed,
        (2, 8, 8),
        r'aten::convolution.* in or behind up .*test_layers.py:\d+ "return self.head.*why:.*transposed.*mend: ',
    ),
    "three dimensions": (volumes, (1, 4, 4, 4), r"in or behind 0 .*not a 1-d or 2-d convolution"),
    "a recurrence of many steps": (Recurrent, (80, 3), r"lstm \(LSTM\) takes 80 steps.*no loops.*mend: "),
    "a cell that steps often": (Stepping, (70, 3), r"cell \(GRUCell\) takes 70 steps"),
    "hidden dropout": (Attention, (6, 8), r"mix.* drops units inside the module"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_kernel_is_named_with_its_layer(tmp_path, what):
    make, shape, message = REFUSED[what]
    x = torch.randn(2, *shape)
    with pytest.raises(ExportError, match=f"(?s){message}"):
        export_module.export_program(lf.rewrite(make(), lf.Backprop(), x), (x, torch.tensor([0, 1])), tmp_path / "out", steps=2)
    assert not (tmp_path / "out").exists()


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.side, self.head = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(torch.cat([x, self.side(x)], 1).mean(-1))


def test_a_concatenation_of_int8_images_is_refused(tmp_path):
    x = torch.randn(2, 2, 9)
    model = lf.rewrite(Concatenated(), lf.SparseUpdate(train="head"), x)
    with pytest.raises(ExportError, match=r"(?s)cat in or behind side.*test_layers.py:\d+ .*channels last.*without int8"):
        export_module.export_program(model, (x, torch.tensor([0, 1])), tmp_path / "out", int8=True, calibration=[x] * 2, steps=2)
    assert not (tmp_path / "out").exists()


def test_an_operator_that_the_host_lacks_is_named(exported, monkeypatch):
    program, _, _ = exported("mlp", lf.Backprop(), steps=3)
    from lightning_fwd_export.host import runtime

    assert "aten::mm.out" in runtime.Runtime.get().operator_registry.operator_names

    class Registry:
        operator_names = runtime.Runtime.get().operator_registry.operator_names - {"aten::mm.out"}

    class Without:
        operator_registry = Registry

        def load_program(self, data):
            raise RuntimeError("operator missing")

    monkeypatch.setattr(runtime, "register_kernels", lambda: None)
    monkeypatch.setattr(runtime.Runtime, "get", lambda: Without())
    with pytest.raises(ExportError, match=r"no kernel for aten::mm\.out \(in classifier, backward\)"):
        HostProgram(program.data)


def test_a_foreign_file_and_foreign_inputs_end_in_clear_errors(exported):
    with pytest.raises(ExportError, match="not a readable ExecuTorch program"):
        HostProgram(b"PK\3\4" * 100)
    program, _, _ = exported("mlp", lf.Backprop(), steps=3)
    with pytest.raises(ExportError, match=r"could not run train_step on inputs \(5, 20\)"):
        HostProgram(program.data).run("train_step", torch.zeros(5, 20), torch.zeros(5, dtype=torch.int64))


def test_elementwise_operations_write_over_what_dies(exported):
    """The planner's permission: relu, its gradient and batch norm's map run in place, so the arena holds little beside what backward
    reads."""
    model, batch = rewritten("batch norm", lf.Backprop(batch_norm="freeze"))
    program, _ = export_module.build(model, batch, torch.nn.functional.cross_entropy, 0.02, 0.0, None, False)
    image = 3 * 8 * 8 * 8 * 4
    assert program.arenas["train_step"][0] < 3.5 * image  # convolution's and relu's results, one gradient; not five


def test_what_third_parties_say_to_themselves_is_left_out(capfd):
    with quiet_stderr():
        os.write(2, b"[cpuinfo_utils.cpp:71] Reading file\nan error\n")
    assert capfd.readouterr().err == "an error\n"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("Mutation on a buffer in the model is detected. And so on", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert [str(w.message) for w in caught] == ["something else"]
