"""Small blocks wait for each other, and take the steps that they would take one by one."""

import copy

import pytest
import torch
from torch import nn
from torch.fx.traceback import preserve_node_meta
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.methods import local_gradients

METHODS = [
    lf.LocalLoss(),
    lf.LocalLoss(lookahead=1),
    lf.LocalLoss(train="head"),
    lf.LocalLoss(train={"2": 0.5, "6": 1.0}),
    lf.DirectFeedback(),
    lf.ForwardForward(),
    lf.ForwardForward(label="planes", head="layers"),
    lf.ForwardForward(goodness="sum", loss="symmetric", sharpness=0.3, threshold=2.0, label_scale=2.0),
    lf.Pepita(),
    lf.Pepita(second_pass="tangent"),
    lf.Pepita(variant="time_local"),
    lf.Pepita(variant="hebbian", recompute=True),
]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))


def trained(start: nn.Module, method: lf.LearningMethod, x: torch.Tensor) -> list[torch.Tensor]:
    """All tensors after three optimizer steps of two batches each."""
    model = lf.rewrite(copy.deepcopy(start), method, x[:2]).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        for part in x.chunk(2):
            y = torch.arange(len(part)) % 4
            with model.step(y, loss_scale=0.5):
                loss = F.cross_entropy(model(part), y) / 2
            model.backward(loss)
        optimizer.step()
    return list(model.state_dict().values())


@pytest.mark.parametrize("make", [net, Tied])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_steps_are_those_of_one_block_after_the_other(method, make, monkeypatch):
    if make is Tied and getattr(method, "train", None):
        pytest.skip("names layers of the other net")
    start, x = make(), torch.randn(16, 12)
    together = trained(start, method, x)
    monkeypatch.setattr(local_gradients, "WAIT", 0)
    apart = trained(start, method, x)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_steps_have_the_bits_of_a_traced_one(method):
    """What is traced, to be priced or shipped, does all that the description says; what trains leaves out what changes no bit."""
    start, x = net(), torch.randn(18, 12)
    plain = trained(start, method, x)
    with preserve_node_meta():
        traced = trained(start, method, x)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def test_what_waits_is_bounded():
    together, given = local_gradients.Together(), []
    for i in range(10):
        layer = nn.Linear(64, 64)
        h = layer(torch.randn(64, 64))  # 4,096 values: four of these fill it
        named = {f"{i}.{name}": p for name, p in layer.named_parameters()}
        given.append(len(list(together.add(named, h.sum(), None, h))))
    assert given == [0, 0, 0, 0, 8, 0, 0, 0, 8, 0] and len(list(together.rest())) == 4 and not list(together.rest())
