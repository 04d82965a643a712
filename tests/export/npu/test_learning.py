"""Learning on the simulated NPU: statistics by probing against float, correction of a shift, and a head in the device's arithmetic."""

import numpy as np
import pytest
import torch
from lightning_fwd_export import ExportError
from lightning_fwd_export.npu.learn import Head
from lightning_fwd_export.npu.learn.affine import F32
from lightning_fwd_export.npu.learn.head import exp, softmax
from lightning_fwd_export.npu.taps import insert_taps
from torch import nn


def test_probing_measures_what_float_shows(learner):
    npu, net = learner
    x, seen = torch.randn(128, 3, 8, 8), {}
    for name, norm in (("stem", net.bn1), ("point", net.bn2)):
        norm.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output.detach()))
    net(x)
    before = {name: npu.split.read(npu.table, name) for name in npu.tapped.layers}
    for tap, name in zip(npu.program.outputs[2:], npu.tapped.layers, strict=True):
        found = npu.measure(npu.store(x), name)
        values = seen[name]
        mean, sigma = values.mean((0, 2, 3)), values.std((0, 2, 3))
        positive = (values - mean[:, None, None]).clamp(min=0).mean((0, 2, 3))
        assert float((torch.from_numpy(found.mean) * tap.scale - mean).abs().div(sigma).max()) < 0.1
        assert float((torch.from_numpy(found.spread) * tap.scale / positive - 1).abs().max()) < 0.1
    for name, records in before.items():  # probing leaves the records as they were, to float32
        after = npu.split.read(npu.table, name)
        assert [r.bias for r in after] == [r.bias for r in records]
        assert [r.gain for r in after] == pytest.approx([r.gain for r in records], rel=2**-23)


def test_a_shift_of_the_input_is_taken_back(learner):
    npu, _ = learner
    x = torch.randn(128, 3, 8, 8)
    source = npu.source_statistics(x)
    shifted = npu.store(0.6 * x + 0.3)
    npu.adapt_statistics(shifted, source)
    for layer in npu.tapped.layers:
        now = npu.measure(shifted, layer)
        assert np.abs(now.mean - source[layer].mean).max() < 1.5  # steps of int8
        assert np.abs(now.spread / source[layer].spread - 1).max() < 0.1


def test_aligned_again_channels_come_to_what_their_norms_have_learned(learner):
    npu, _ = learner
    x = torch.randn(128, 3, 8, 8)
    source, stored, rng = npu.source_statistics(x), npu.store(0.6 * x + 0.3), np.random.default_rng(0)
    for layer, norm in npu.learn_norms().items():
        shift, scale = (norm.shift + norm.scale * F32(rng.uniform(-0.5, 0.5, norm.shift.size)), norm.scale * F32(1.3))
        norm.move(npu.affine[layer], npu.steps[layer], shift, scale)
        npu.write(layer)
    npu.adapt_statistics(stored, source)
    for layer, norm in npu.norms.items():
        now = npu.measure(stored, layer)
        assert np.abs(now.mean - norm.shift / npu.steps[layer]).max() < 1.5  # steps of int8
        assert np.abs(now.spread / (F32(1.3) * source[layer].spread) - 1).max() < 0.1
        assert np.abs(now.mean - source[layer].mean).max() > 10


def test_the_head_is_the_gradient_that_torch_finds():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 4, 8)
    linear = nn.Linear(6, 4)
    head = Head(linear.weight.detach().numpy(), linear.bias.detach().numpy(), lr=0.1, momentum=0.9, batch=8, steps=4)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 * (4 - step) / 4
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(torch.from_numpy(features)), torch.from_numpy(labels)).backward()
        optimizer.step()
        head.step(features, labels)
    assert np.allclose(head.weight, linear.weight.detach().numpy(), atol=1e-6)
    assert np.allclose(head.bias, linear.bias.detach().numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="7 samples"):
        head.step(features[:7], labels[:7])


def test_the_device_exp():
    x = np.linspace(-87, 0, 1000, dtype=np.float32)
    assert np.allclose(exp(x), np.exp(x.astype(np.float64)), rtol=3e-7)
    assert np.array_equal(exp(np.float32([-90, -1e9])), [0, 0])
    assert softmax(np.float32([[1000, 0], [0, 0]])).tolist() == [[1, 0], [0.5, 0.5]]


def test_a_network_without_a_linear_end_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ExportError, match="linear layer"):
        insert_taps(net, torch.randn(1, 3, 8, 8))
    with pytest.raises(ExportError, match="batch norm"):
        insert_taps(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(1, 3, 2, 2))
