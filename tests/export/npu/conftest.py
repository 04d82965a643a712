"""Small networks and the MLCommons-Tiny ones, compiled for an Ethos-U once per session."""

from importlib.util import find_spec

import pytest
import torch
from npu_nets import OnlyLogits, TinyResidual, fitted
from torch import nn

pytest.importorskip("executorch", reason="needs the extra [export]")

from lightning_fwd_export.npu.compile import NpuProgram, compile_network
from lightning_fwd_export.npu.learn import NpuLearner, NpuTrainer
from lightning_fwd_export.npu.learn.affine import Affine

from lightning_fwd.models import DSCNN, FCAutoencoder, MobileNetV1, ResNet8, StreamingWakeWord

MLPERF_TINY = {net.__name__: net for net in (ResNet8, DSCNN, MobileNetV1, FCAutoencoder, StreamingWakeWord)}


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
    npu.table[:], npu.norms, npu.context = npu.split.table, {}, {}
    for layer in npu.tapped.layers:
        npu.affine[layer] = Affine.neutral(npu.split.read(npu.table, layer))
    return npu, net


@pytest.fixture(scope="session")
def small_learner(tiny):
    torch.manual_seed(0)
    net = fitted(OnlyLogits())
    return NpuLearner(net, torch.randn(16, 3, 8, 8)), net


@pytest.fixture(scope="session")
def compiled_trainer() -> tuple[NpuTrainer, nn.Module]:
    pytest.importorskip("ethosu", reason="Vela is not installed: pip install -e '.[npu]'")
    torch.manual_seed(0)
    net = fitted(OnlyLogits())
    return NpuTrainer(net, torch.randn(16, 3, 8, 8)), net


@pytest.fixture
def trainer(compiled_trainer):
    """With what it has learned put back at the end."""
    learner, _ = compiled_trainer
    state = learner.state()
    yield learner
    learner.restore(state)


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
