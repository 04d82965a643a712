"""Small networks and the MLCommons-Tiny ones, compiled for an Ethos-U once per session."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

pytest.importorskip("executorch", reason="needs the extra [export]")

from lightning_fwd_export.npu.compile import NpuProgram, compile_network
from lightning_fwd_export.npu.learn import NpuLearner
from lightning_fwd_export.npu.learn.affine import Affine

from lightning_fwd.models import DSCNN, FCAutoencoder, MobileNetV1, ResNet8, StreamingWakeWord

MLPERF_TINY = {net.__name__: net for net in (ResNet8, DSCNN, MobileNetV1, FCAutoencoder, StreamingWakeWord)}


class TinyResidual(nn.Module):
    """Every kind of layer that the records' finder must tell apart: strided, depthwise, pointwise, shortcut, linear. Logits and features."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1, self.relu1 = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.depthwise, self.relu2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.ReLU()
        self.point, self.bn2, self.relu3 = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.flatten, self.classifier = nn.Flatten(), nn.Linear(16, 5)

    def forward(self, x):
        x = self.relu1(self.bn1(self.stem(x)))
        x = self.relu3(x + self.bn2(self.point(self.relu2(self.depthwise(x)))))
        features = self.flatten(nn.functional.avg_pool2d(x, (4, 4)))
        return self.classifier(features), features


class OnlyLogits(TinyResidual):
    """The same as a classifier."""

    def forward(self, x):
        return super().forward(x)[0]


def compiled(net: nn.Module, shape: tuple[int, ...], accelerator: str) -> NpuProgram:
    """Calibrated on noise: what is tested is the same for any weights."""
    torch.manual_seed(0)
    return compile_network(net.eval(), (torch.randn(1, *shape),), accelerator, [(torch.randn(1, *shape),) for _ in range(4)])


@pytest.fixture(scope="session")
def tiny() -> NpuProgram:
    if find_spec("ethosu") is None:
        pytest.skip("Vela is not installed: pip install -e '.[npu]'")
    torch.manual_seed(0)
    return compiled(TinyResidual(), (3, 8, 8), "ethos-u55-128")


@pytest.fixture
def learner(small_learner):
    """A network on the simulated NPU, its records as compiled, and the network itself."""
    npu, net = small_learner
    npu.table[:] = npu.split.table
    for layer in npu.tapped.layers:
        npu.affine[layer] = Affine.neutral(npu.split.read(npu.table, layer))
    return npu, net


@pytest.fixture(scope="session")
def small_learner(tiny):
    torch.manual_seed(0)
    net = OnlyLogits().eval()
    return NpuLearner(net, torch.randn(16, 3, 8, 8)), net


@pytest.fixture(scope="session")
def mlperf_tiny():
    """``mlperf_tiny(name)``: one of the five networks with random weights on a U55-128."""
    cache: dict[str, NpuProgram] = {}

    def get(name: str) -> NpuProgram:
        if name not in cache:
            torch.manual_seed(0)
            net = MLPERF_TINY[name]()
            for layer in net.modules():  # else the signal dies away over many layers, and all outputs are alike
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)
            cache[name] = compiled(net, net.input_shape, "ethos-u55-128")
        return cache[name]

    return get
