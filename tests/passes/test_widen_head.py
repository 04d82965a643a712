"""A head over all blocks: predicts what the network did until it learns, any rule trains it, and what comes back is plain."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from method_table import clusters
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.models import DSCNN, MLP, MobileNetV1, ResNet8, SmallConv


class Features(nn.Module):
    """All but the head in one child, as in torchvision."""

    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(5, 4)
        self.input_shape = 1, 8, 8

    def forward(self, x):
        return self.classifier(self.features(x))


@pytest.mark.parametrize(
    ("net", "wide"),
    [
        (ResNet8(), 16 + 16 + 32 + 64),
        (DSCNN(), 64 * 5),
        (MobileNetV1(), 8 + 16 + 32 * 2 + 64 * 2 + 128 * 6 + 256 + 256),
        (SmallConv(1, (6, 8), 4), 6 + 8),
        (MLP(16, (24, 20), 4), 24 + 20),
        (Features(), 4 + 6 + 5),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_it_predicts_what_the_network_did(net, wide):
    net.eval()
    torch.manual_seed(0)
    x = torch.randn(6, *net.input_shape)
    before, expected = {n: t.clone() for n, t in net.state_dict().items()}, net(x)
    got = lf.widen_head(net, x)
    torch.testing.assert_close(got(x), expected)
    assert got.get_submodule([n for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]).in_features == wide
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items()) and not got.training
    assert set(net.state_dict()) <= set(got.state_dict())


def test_what_it_reads_is_standardised_by_the_samples():
    torch.manual_seed(0)
    net, x = SmallConv(1, (6, 8), 4).eval(), 3 + torch.randn(40, 1, 8, 8)
    wide, seen = lf.widen_head(net, x), []
    wide.classifier.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    wide(x)
    z, stage1 = seen[0][:, :6], net.stage1(x).mean((2, 3))
    torch.testing.assert_close(z, (stage1 - stage1.mean(0)) / (stage1.var(0, correction=0) + 1e-5).sqrt())


@pytest.mark.parametrize(
    "rule", [lf.SparseUpdate("head"), lf.ZerothOrder(samples=4), lf.Backprop(batch_norm="freeze")], ids=lambda r: type(r).__name__
)
def test_rules_train_it_and_unwrap_gives_a_plain_module_that_predicts_the_same(rule):
    torch.manual_seed(0)
    x, y = clusters(SmallConv(1, (6, 8), 4))
    model = lf.rewrite(lf.widen_head(SmallConv(1, (6, 8), 4).eval(), x), rule, x[:2]).train()
    optimizer, losses = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05), []
    for _ in range(40):
        optimizer.zero_grad()
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
    predicted = model.eval()(x)
    net = lf.unwrap(model)
    torch.testing.assert_close(net(x), predicted)
    assert net.classifier.weight[:, :6].abs().sum() > 0
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(x), predicted)


def test_a_step_that_trains_it_costs_little_more_than_its_own_head():
    x = torch.zeros(1, 3, 32, 32)
    own, wide = (lf.step_cost(net, x, method=lf.SparseUpdate("head")) for net in (ResNet8(), lf.widen_head(ResNet8().eval(), x)))
    assert own.total_macs < wide.total_macs < 1.01 * own.total_macs and wide.peak_ram_bytes < 1.02 * own.peak_ram_bytes
    assert wide.parameters_trained == own.parameters_trained + 64 * 10


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no plain linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), "one block before its head"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "one block before its head"),
    ],
)
def test_what_cannot_be_widened_is_told(net, message):
    with pytest.raises(lf.RewriteError, match=message):
        lf.widen_head(net, torch.zeros(2, 1, 8, 8))
