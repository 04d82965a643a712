"""Networks that are shipped to predict only, in float and int8. All five of MLCommons-Tiny: ``-m slow``."""

import json

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.inference import export_inference
from lightning_fwd_export.pte import read_program
from tiny_exports import export_module
from torch import nn

import lightning_fwd as lf
from lightning_fwd.cli import main
from lightning_fwd.models import MODELS, SamePad2d


class Keyword(nn.Module):
    """DS-CNN in small: one channel, padding at one end, a depthwise layer padded at one end, pooling that rounds its size up."""

    def __init__(self):
        super().__init__()
        self.pad, self.stem = SamePad2d((13, 10), (4, 4), 2), nn.Conv2d(1, 9, 4, 2)
        self.pad2, self.depthwise, self.point = SamePad2d((7, 5), (4, 3), 2), nn.Conv2d(9, 9, (4, 3), 2, groups=9), nn.Conv2d(9, 6, 1)
        self.pool, self.head = nn.AvgPool2d(3, 2, ceil_mode=True), nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.depthwise(self.pad2(torch.relu(self.stem(self.pad(x))))))
        return self.head(self.pool(self.point(x)).flatten(1))


class Dilated(nn.Module):
    """Dilated convolutions, and a pooling whose padding does not count."""

    def __init__(self):
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(1, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.pool, self.head = nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Linear(128, 4)

    def forward(self, x):
        return self.head(self.pool(torch.relu(self.depthwise(torch.relu(self.conv(x))))).flatten(1))


class Permuted(Dilated):
    """Its channel comes last."""

    def forward(self, x):
        return super().forward(x.permute(0, 3, 1, 2).contiguous())


class Pooled(nn.Module):
    """Max pooling that rounds its size up: with windows that the image cuts, and with whole ones."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, padding=(1, 0), ceil_mode=True)
        self.conv2, self.pool2, self.head = nn.Conv2d(8, 6, 1), nn.MaxPool2d(2, ceil_mode=True), nn.Linear(24, 4)

    def forward(self, x):
        x = self.pool(nn.functional.relu6(self.conv(x)))  # 6 x 8 to 4 x 4
        return self.head(self.pool2(torch.relu(self.conv2(x))).flatten(1))


class Autoencoder(nn.Sequential):
    num_classes = None

    def __init__(self):
        super().__init__(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 20))


NETS = {
    "keyword": (Keyword, (1, 13, 10)),
    "dilated": (Dilated, (1, 8, 8)),
    "permuted": (Permuted, (8, 8, 1)),
    "pooled": (Pooled, (3, 6, 8)),
    "autoencoder": (Autoencoder, (20,)),
}


def samples(shape, batch=1, count=8):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(batch, *shape, generator=g) for _ in range(count)]


@pytest.mark.parametrize(("net", "int8", "batch"), [
    ("keyword", True, 1), ("keyword", False, 1), ("dilated", True, 1), ("permuted", False, 1), ("pooled", True, 1),
    ("autoencoder", True, 3),
    pytest.param("keyword", True, 2, marks=pytest.mark.slow), pytest.param("permuted", True, 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_predictions_equal_pytorch(tmp_path, net, int8, batch):
    torch.manual_seed(0)
    make, shape = NETS[net]
    xs = samples(shape, batch)
    program, report = export_inference(make(), xs[0], tmp_path, int8=int8, calibration=xs if int8 else None, inputs=xs)
    assert report.difference <= (0 if int8 else 1e-5) and (tmp_path / "c/lfwd_model.c").exists()
    assert (report.same_predictions is None) == (net == "autoencoder" or not int8)
    if int8:
        assert report.relative_error < 0.1
        calls = [c.operator for c in read_program(program.data).methods["forward"].calls]
        assert not [c for c in calls if "aten::convolution" in c or (net == "keyword" and "pad" in c)]
        assert all(c.layer for c in read_program(program.data).methods["forward"].calls if "quantized_conv2d" in c.operator)


@pytest.mark.board
@pytest.mark.parametrize("board", ["mps3-an547", pytest.param("mps2-an386", marks=pytest.mark.slow)])
def test_the_same_bits_on_a_board(tmp_path, emulator, board):
    torch.manual_seed(0)
    xs = samples((1, 13, 10))
    _, report = export_inference(Keyword(), xs[0], tmp_path, board=board, run=True, int8=True, calibration=xs, inputs=xs)
    assert report.board["difference_to_host"] == 0
    assert report.board["ram_bytes"] == pytest.approx(report.activations_bytes, abs=32)
    assert json.loads((tmp_path / "report.json").read_text())["board"]["instructions_per_inference"] > 0


@pytest.mark.slow
@pytest.mark.board
@pytest.mark.parametrize("board", ["mps2-an386", "mps2-an500", "mps3-an547"])
@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "mobilenet_v1_025", "fc_autoencoder", "streaming_wake_word"])
def test_all_of_mlcommons_tiny(tmp_path, emulator, name, board):
    torch.manual_seed(0)
    net = MODELS[name]()
    xs = samples(net.input_shape)
    _, report = export_inference(net, xs[0], tmp_path, board=board, run=True, int8=True, calibration=xs, inputs=xs[:3])
    assert report.difference == 0 and report.board["difference_to_host"] == 0
    assert name != "mobilenet_v1_025" or report.board["ram_bytes"] < 56_000  # 75,280 with padding as an operation


def test_an_autoencoder_learns_its_input_behind_an_int8_body(tmp_path):
    torch.manual_seed(0)
    xs = samples((20,))
    model = lf.rewrite(Autoencoder(), lf.SparseUpdate(train=1), xs[0])
    batches = [(x, x) for x in xs]
    _, report = export_module.export_program(
        model, batches[0], tmp_path, int8=True, calibration=xs, batches=batches, loss=nn.functional.mse_loss, steps=8
    )
    assert report.weight_difference <= 1e-5 and report.same_predictions is None


def test_the_command(tmp_path, capsys):
    arguments = ["export", "--inference", "--model", "mlp", "--dataset", "digits", "--int8", "--steps", "5", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "bit for bit" in capsys.readouterr().out and (tmp_path / "inference.pte").exists()
    assert main([*arguments, "--drift", "noise=0.1"]) == 2


@pytest.mark.slow
def test_the_command_with_signals_for_a_network_of_images_one_pixel_wide(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 40, 30)).astype("float32"), np.arange(80) % 3
    np.savez(tmp_path / "mine.npz", x_train=x[:64], y_train=y[:64], x_test=x[64:], y_test=y[64:])
    arguments = ["--model", "streaming_wake_word", "--dataset", str(tmp_path / "mine.npz"), "--int8", "--steps", "2"]
    assert main(["export", "--inference", *arguments, "--out", str(tmp_path)]) == 0
    assert "bit for bit" in capsys.readouterr().out and "lfwd_prepare" in (tmp_path / "c/lfwd_model.h").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"board": "mps2-an386"}, "belong together"),
        ({"int8": True}, "no calibration data"),
        ({"inputs": [torch.zeros(1, 3)]}, "another shape"),
        ({"samples": 0}, "samples >= 1"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ExportError, match=message):
        export_inference(Autoencoder(), torch.zeros(1, 20), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_rewritten_model_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"lf\.unwrap"):
        export_inference(lf.rewrite(Autoencoder(), lf.Backprop(), torch.zeros(1, 20)), torch.zeros(1, 20), tmp_path)
