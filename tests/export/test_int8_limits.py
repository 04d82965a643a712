"""What int8 does not reach is named with its operator, layer and mend before anything runs on its bytes; what is ordinary is exported."""

import lightning_fwd_export
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.export_step import export_program
from lightning_fwd_export.inference import export_inference
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


class Net(nn.Module):
    """Two convolutions, then what is tried, then a linear layer."""

    num_classes = 3

    def __init__(self, between, features):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(features, 3)
        self.between = between

    def forward(self, x):
        return self.head(self.between(F.relu(self.second(F.relu(self.first(x)))), x).flatten(1))


REFUSED = {
    "pixel_shuffle": (lambda h, x: F.pixel_shuffle(h, 2), 64, "aten::view in or behind second.*channels for pixels.*without int8"),
    "cat": (lambda h, x: torch.cat([h, F.relu(h)], 1), 128, "aten::cat in or behind second.*add in place"),
    "number": (lambda h, x: h - 2.0, 64, "aten::sub in or behind second.*bias of the layer before"),
}


def batches(channels_last=False):
    torch.manual_seed(0)
    return [torch.randn(1, 4, 4, 1) if channels_last else torch.randn(1, 1, 4, 4) for _ in range(6)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_int8_has_no_kernel_for_is_named(tmp_path, name):
    between, features, message = REFUSED[name]
    xs = batches()
    with pytest.raises(ExportError, match=f"(?s){message}"):
        export_inference(Net(between, features), xs[0], tmp_path / "out", int8=True, calibration=xs, inputs=xs)
    assert not (tmp_path / "out").exists()
    _, report = export_inference(Net(between, features), xs[0], tmp_path / "out", inputs=xs)
    assert report.difference <= 1e-4


def test_softmax_at_the_end_is_to_be_left_out(tmp_path):
    xs = batches()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1))
    with pytest.raises(ExportError, match=r"(?s)cortex_m::softmax in or behind .*end in the logits"):
        export_inference(net, xs[0], tmp_path, int8=True, calibration=xs, inputs=xs)


class Permuted(Net):
    def forward(self, x):
        h = F.relu(self.second(F.relu(self.first(x.permute(0, 3, 1, 2).contiguous()))))
        return self.head(h.permute(0, 2, 3, 1).contiguous().flatten(1))


@pytest.mark.parametrize(
    ("net", "xs"),
    [
        pytest.param(lambda: Net(lambda h, x: F.max_pool2d(h, 2), 16), batches(), id="max pooling"),
        pytest.param(lambda: Permuted(None, 64), batches(True), id="permute and contiguous"),
    ],
)
def test_in_the_float_part_behind_an_int8_body(tmp_path, net, xs):
    model = lf.rewrite(net(), lf.SparseUpdate(train=["second", "head"]), xs[0])
    pairs = [(x, torch.tensor([k % 3])) for k, x in enumerate(xs)]
    _, report = export_program(model, pairs[0], tmp_path, int8=True, calibration=xs, batches=pairs, steps=6)
    assert report.weight_difference <= 1e-6


@pytest.mark.parametrize("bad", [float("nan"), 0.0])
def test_calibration_that_shows_no_range_is_refused(tmp_path, bad):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ExportError, match="is not finite" if bad else "of one value only"):
        export_inference(net, batches()[0], tmp_path, int8=True, calibration=[torch.full((1, 1, 4, 4), bad)] * 3)
    with pytest.raises(ExportError, match="calibration without int8"):
        export_inference(net, batches()[0], tmp_path, calibration=batches())


@pytest.mark.board
def test_what_does_not_fit_a_board_says_by_how_much_and_nothing_is_written(tmp_path, emulator):
    net, x = nn.Linear(600, 300), torch.randn(1, 600)
    with pytest.raises(ExportError, match=r"(?s)does not fit mps3-an547.*FLASH overflows by [\d,]+ B.*board with more"):
        lightning_fwd_export.export_inference(net, x, tmp_path / "out", board="mps3-an547", run=True, samples=2)
    assert not (tmp_path / "out").exists()


class Attends(nn.Module):
    """Between vectors and signals, which lie as float ones do, values may be moved."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.attention, self.norm, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def test_attention_is_exported_in_int8(tmp_path):
    torch.manual_seed(0)
    xs = [torch.randn(1, 6, 8) for _ in range(6)]
    _, report = export_inference(Attends(), xs[0], tmp_path, int8=True, calibration=xs, inputs=xs)
    assert report.difference == 0 and report.relative_error < 0.1
