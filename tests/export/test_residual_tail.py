"""Int8 bodies from which several values cross into the trained part: residual blocks that learn, and skips over more than one block."""

import pytest
import torch
from lightning_fwd_export import ExportError
from tiny_exports import export_module
from torch import nn

import lightning_fwd as lf
from lightning_fwd.models.mlperf_tiny import ResidualBlock


class Residual(nn.Module):
    """A stem, a block whose shortcut is a convolution, one whose shortcut is its input, and a skip over both."""

    def __init__(self, stride: int):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(2, 6, 3, padding=1), nn.ReLU()
        self.block1, self.block2 = ResidualBlock(6, 8, stride, 8), ResidualBlock(8, 8, 1, 8 // stride)
        self.skip, self.pool, self.classifier = nn.Conv2d(6, 8, 1, stride), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.classifier(self.pool(self.block2(self.block1(x)) + self.skip(x)).flatten(1))


def trained(train, stride=2):
    torch.manual_seed(0)
    xs = [torch.randn(1, 2, 8, 8) for _ in range(6)]
    model = lf.rewrite(Residual(stride), lf.SparseUpdate(train=train), xs[0])
    return model, [(x, torch.randint(0, 4, (1,))) for x in xs]


# block 2's input and the stem's output, which the skip reads; block 2's input and the skip's result; one value in two readings, padded and
# not
@pytest.mark.parametrize(
    "train",
    [
        ["block2", "skip", "classifier"],
        pytest.param(["block2", "classifier"], marks=pytest.mark.slow),
        pytest.param(["block1", "block2", "skip", "classifier"], marks=pytest.mark.slow),
    ],
)
def test_several_values_cross(tmp_path, train):
    model, batches = trained(train)
    batches = batches[:1] + batches
    _, report = export_module.export_program(
        model, (torch.zeros(1, 2, 8, 8), batches[0][1]), tmp_path, int8=True, calibration=[x for x, _ in batches], batches=batches, steps=6
    )
    assert report.weight_difference <= 1e-5 and report.same_predictions >= 0.5
    code = (tmp_path / "c/lfwd_model.c").read_text()
    assert "stem forward */" in code and "lfwd_conv2d_s8(" in code


def test_a_trained_part_that_reads_the_input_is_refused(tmp_path):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.join, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Linear(128, 4)

        def forward(self, x):
            return self.head((self.join(x) + self.body(x)).flatten(1))

    torch.manual_seed(0)
    x = torch.randn(1, 2, 8, 8)
    model = lf.rewrite(Skip(), lf.SparseUpdate(train=["join", "head"]), x)
    with pytest.raises(ExportError, match="reads the input itself"):
        export_module.export_program(model, (x, torch.zeros(1, dtype=torch.int64)), tmp_path / "out", int8=True, calibration=[x], steps=1)
    assert not (tmp_path / "out").exists()
