"""The way back of the error as an inference: autograd's gradients, a program that the simulator runs as the reference model does, and a
network that learns by it."""

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu import backward
from lightning_fwd_export.npu.backward import insert_backward
from lightning_fwd_export.npu.halves import cut_before
from lightning_fwd_export.npu.learn import NpuTrainer
from lightning_fwd_export.npu.learn.head import softmax
from lightning_fwd_export.npu.simulator import Simulator
from lightning_fwd_export.npu.taps import insert_taps
from npu_nets import OnlyLogits, fitted
from test_simulator import compare
from torch import nn

from lightning_fwd.models import DSCNN, MobileNetV1, ResNet8


def norms_of(net: nn.Module, example: torch.Tensor) -> list[nn.BatchNorm2d]:
    """The network's own batch norms, in the order of its layers."""
    copied = insert_taps(net, example)
    paths = {id(module): path for path, module in copied.module.named_modules()}
    return [net.get_submodule(paths[id(norm)]) for norm in copied.norms.values()]


@pytest.mark.parametrize("network", [OnlyLogits, ResNet8, DSCNN, MobileNetV1])
def test_the_sums_are_the_gradients_of_autograd(network, monkeypatch):
    monkeypatch.setattr(backward, "MASK_GAIN", 1e12)  # in float a mask is 1 from its inverse on
    torch.manual_seed(0)
    net = fitted(network(), samples=8).double()
    x, seen = torch.randn(2, *getattr(net, "input_shape", (3, 8, 8)), dtype=torch.double), []
    norms = norms_of(net, x[:1])
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    back = insert_backward(net, x[:1])
    back.module.double()
    net.get_submodule(back.tapped.head).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(x)
    error = torch.randn_like(seen[0])
    wanted = torch.autograd.grad((seen[0] * error).sum(), [m.bias for m in norms] + [m.weight for m in norms])
    with torch.no_grad():
        sums = back.module(x, error[:, :, None, None])[2 + len(norms) :]
        for k, norm in enumerate(norms):
            bias, scale = (sums[at].sum(0) / back.window for at in (k, len(norms) + k))
            for got, want in ((bias, wanted[k]), ((scale - norm.bias * bias) / norm.weight, wanted[len(norms) + k])):
                assert float((got - want).abs().max() / want.abs().max()) < 1e-6


@pytest.mark.parametrize("padding_before", [None, (0, 1, 0, 1), (1, 2, 3, 0)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [(3, 2, 1, 1), (3, 2, 0, 1), (1, 2, 0, 1), (5, 3, 2, 1), ((3, 1), (2, 1), 0, 1), (3, 2, 1, 4)],
)
def test_the_way_back_through_a_stride(kernel, stride, padding, groups, padding_before):
    """Two convolutions with a stride read the same map, which has an odd number of rows."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.one, self.bn1 = nn.Conv2d(4, 4, kernel, stride, padding, groups=groups), nn.BatchNorm2d(4)
            self.two, self.bn2 = nn.Conv2d(4, 4, kernel, stride, padding), nn.BatchNorm2d(4)
            self.relu, self.pool, self.flatten, self.classifier = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)

        def forward(self, x):
            x = self.bn(self.stem(x))
            padded = nn.functional.pad(x, padding_before) if padding_before else x
            return self.classifier(self.flatten(self.pool(self.relu(self.bn1(self.one(padded)) + self.bn2(self.two(padded))))))

    torch.manual_seed(0)
    net, x, seen = Net().double().eval(), torch.randn(2, 3, 11, 8, dtype=torch.double), []
    back = insert_backward(net, x[:1])
    back.module.double()
    net.bn.register_forward_hook(lambda module, inputs, output: seen.append(output.retain_grad() or output))
    net.flatten.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(x)
    error = torch.randn_like(seen[1])
    (seen[1] * error).sum().backward()
    with torch.no_grad():
        sums = back.module(x, error[:, :, None, None])[2 + 3 :]
    first = back.tapped.layers.index("stem")
    assert torch.allclose(sums[first] / back.window, seen[0].grad.sum((2, 3)), rtol=1e-4, atol=1e-7)


class Middle(nn.Module):
    """Something between two convolutions under batch norm, which have a way back."""

    def __init__(self, of, inner: nn.Module | None = None):
        super().__init__()
        self.stem, self.bn, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.inner, self.inner_bn = inner or nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.top, self.top_bn, self.of = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), of
        self.relu, self.pool, self.flatten, self.classifier = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.of(self, self.act(self.bn(self.stem(x))))
        return self.classifier(self.flatten(self.pool(self.relu(self.top_bn(self.top(x))))))


def convolved(net, x):
    return net.inner_bn(net.inner(x))


def strided_behind_padding(net, x):
    return convolved(net, nn.functional.pad(input=x, pad=(2, 1), mode="constant"))


@pytest.mark.parametrize(
    ("of", "inner"),
    [
        (lambda net, x: x + x, None),
        (lambda net, x: x + 1.5, None),
        (lambda net, x: torch.add(x, other=convolved(net, x)), nn.Conv2d(4, 4, 3, padding=1)),
        (strided_behind_padding, nn.Conv2d(4, 4, 3, 2, padding="valid")),
        *((convolved, nn.Conv2d(4, 4, kernel, padding=padding)) for kernel in (1, 3, (2, 5)) for padding in ("same", "valid", 1, (0, 3))),
        (convolved, nn.Conv2d(4, 4, 3, padding="same", groups=4)),
        (convolved, nn.Conv2d(4, 4, 1, 2, padding=1)),
    ],
)
def test_the_way_back_through_what_is_written_in_another_way(of, inner, monkeypatch):
    monkeypatch.setattr(backward, "MASK_GAIN", 1e12)
    torch.manual_seed(0)
    net, x, seen = Middle(of, inner).double().eval(), torch.randn(2, 3, 9, 8, dtype=torch.double), []
    back = insert_backward(net, x[:1])
    back.module.double()
    net.flatten.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(x)
    error = torch.randn_like(seen[0])
    (wanted,) = torch.autograd.grad((seen[0] * error).sum(), net.bn.bias)
    with torch.no_grad():
        sums = back.module(x, error[:, :, None, None])[2 + len(back.tapped.layers) :]
    got = sums[back.tapped.layers.index("stem")].sum(0) / back.window
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("of", "inner", "why"),
    [
        (lambda net, x: torch.add(x, x, alpha=0.25), None, "0.25 times its second operand"),
        (lambda net, x: x + nn.functional.avg_pool2d(x, (9, 8)), None, r"spreads a map of \(4, 1, 1\)"),
        (lambda net, x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), None, "than a constant"),
        (lambda net, x: nn.functional.pad(x, (-1, 0)), None, "cuts them away"),
        (lambda net, x: nn.functional.avg_pool2d(x, 2, padding=1), None, "pooling is padded"),
        (convolved, nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "'circular'"),
        (convolved, nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect'"),
    ],
)
def test_what_the_way_back_would_get_wrong_is_refused(of, inner, why):
    with pytest.raises(ExportError, match=f"no way back through .* of Middle.*\n?.*{why}"):
        insert_backward(Middle(of, inner).eval(), torch.randn(1, 3, 9, 8))


def test_the_program_runs_as_the_reference_model_runs_it(compiled_trainer):
    compare(compiled_trainer[0].program.tosa, "ethos-u55-128", images=4, trials=1)


@pytest.mark.slow
def test_the_way_back_of_resnet_8_runs_as_the_reference_model_runs_it():
    pytest.importorskip("ethosu", reason="Vela is not installed: pip install -e '.[npu]'")
    torch.manual_seed(0)
    compare(NpuTrainer(fitted(ResNet8(), samples=8), torch.randn(4, 3, 32, 32)).program.tosa, "ethos-u55-128", images=4, trials=2)


def test_two_halves_are_the_whole(trainer):
    program, rng = trainer.program, np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, (3, slot.size)).astype(np.int8) for slot in program.binary.inputs]
    image, error = (quantised.slot for quantised in program.inputs)
    early = [output.slot for output in program.outputs[:4]]
    halves = [Simulator(half) for half in cut_before(program.binary, error, tuple(early))]
    whole = Simulator(program.binary)(*inputs)
    memory = halves[0].load({image: inputs[image]})
    halves[0].run(memory)
    assert all(np.array_equal(halves[0].read(memory, slot), whole[slot]) for slot in early)
    halves[1].write(memory, error, inputs[error])
    halves[1].run(memory)
    assert all(np.array_equal(halves[1].read(memory, slot), values) for slot, values in enumerate(whole))
    with pytest.raises(ExportError, match="behind the first use"):
        cut_before(program.binary, image, tuple(early))


def test_gradients_follow_the_gains_that_were_learned(trainer, compiled_trainer):
    """With other gains and offsets in the records the NPU's gradients are those of the float network that has them."""
    images = torch.randn(32, 3, 8, 8)
    errors = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    back, gain = insert_backward(compiled_trainer[1], images[:1]), torch.linspace(0.5, 1, 16)
    for layer in trainer.tapped.layers:
        trainer.affine[layer].gain = gain.numpy().copy()
        convolution = back.module.get_submodule(layer)
        convolution.weight.data *= gain[:, None, None, None]
        convolution.bias.data *= gain
    trainer.restore(trainer.state())
    for path in back.gains.values():  # the weights of the way back are those as compiled
        back.module.get_submodule(path).weight.data *= gain[:, None, None, None]
    with torch.no_grad():
        wanted = back.module(images, torch.from_numpy(errors)[:, :, None, None])[4:]
    found = trainer.sums(trainer.store(images), errors)
    for k, layer in enumerate(trainer.tapped.layers):
        for got, want, factor in zip(found[layer], wanted[k::2], trainer.factors[layer], strict=True):
            got, want = got.ravel() * factor, want.numpy().ravel() / back.window
            assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > 0.98
            assert np.linalg.norm(got) / np.linalg.norm(want) == pytest.approx(1, abs=0.1)


def test_it_learns_labels(trainer):
    x, rng = trainer.store(torch.randn(64, 3, 8, 8)), np.random.default_rng(0)
    labels = (trainer.run(x)[0].argmax(1) + 1) % 5  # another order of the classes
    head = trainer.head(lr=0.05, momentum=0.9, batch=16, steps=60)

    def loss() -> float:
        return -float(np.log(softmax(head.logits(trainer.features(x)))[np.arange(64), labels]).mean())

    before, records = loss(), bytes(trainer.table)
    for _ in range(15):
        for batch in rng.permutation(64).reshape(4, 16):
            trainer.step(head, x[batch], labels[batch])
    assert loss() < 0.7 * before and bytes(trainer.table) != records
    assert all((norm.scale > 0).all() for norm in trainer.norms.values())


def test_what_has_no_way_back_is_refused():
    class Strided(nn.Sequential):
        def __init__(self, *middle: nn.Module):
            super().__init__(
                nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), *middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
            )

    x = torch.randn(1, 3, 12, 12)
    for middle, why in (
        ((nn.Hardtanh(),), "known are"),
        ((nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), "groups of several"),
        ((nn.Conv2d(4, 4, 3, dilation=2), nn.BatchNorm2d(4)), "dilated"),
    ):
        with pytest.raises(ExportError, match=why):
            insert_backward(Strided(*middle), x)
    with pytest.raises(ExportError, match="begin at a pooling"):
        insert_backward(nn.Sequential(nn.Conv2d(3, 4, 12), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), x)
