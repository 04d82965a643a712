"""Zeroth order: the slope is the directional derivative, the direction is the seed's, the memory is that of inference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import price, step_cost
from lightning_fwd.graph.weight_directions import direction
from lightning_fwd.models import ResNet8
from lightning_fwd.trace import trace_inference


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def gradients_of(net: nn.Module, method, x, y):
    model = lf.rewrite(copy.deepcopy(net), method, x)
    model.train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 6, generator=generator, dtype=torch.float64), torch.arange(7) % 3


def test_the_update_is_the_directional_derivative_along_its_direction():
    (x, y), net = batch(), tiny()
    got, model = gradients_of(net, lf.ZerothOrder(train=["0", "2"], scale=1e-6), x, y)
    F.cross_entropy(net(x), y).backward()
    true = {name: p.grad for name, p in net.named_parameters()}
    z = {name: direction(torch.tensor(0), place, true[name]) for name, place in model.inserted.places.items()}
    assert all(set(v.unique().tolist()) <= {-1.0, 1.0} for v in z.values())
    slope = sum((z[name] * true[name]).sum() for name in true)
    assert got.keys() == true.keys()
    for name in true:
        torch.testing.assert_close(got[name], slope * z[name], rtol=1e-4, atol=1e-8)


class Other(nn.Module):
    """Bare parameters, one behind arithmetic, a layer that nothing of the input enters, one with several inputs by name, a recurrent
    one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.shift, self.query = (nn.Parameter(torch.randn(*shape)) for shape in ((6, 6), (6,), (1, 1, 6)))
        self.dense, self.attention = nn.Linear(6, 6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.lstm, self.head = nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        h = (F.linear(x, 2 * self.weight, self.shift) + self.dense(self.query)[0]).unsqueeze(1)
        return self.head(self.lstm(self.attention(query=h, key=h, value=h)[0])[0][:, -1])


@pytest.mark.parametrize("train", [["weight", "dense"], ["query", "shift"], ["attention"], ["lstm"], 5])
def test_parameters_that_no_plain_layer_holds_move_too(train):
    torch.manual_seed(0)
    (x, y), net = batch(), Other().double()
    got, model = gradients_of(net, lf.ZerothOrder(train=train, scale=1e-6), x, y)
    F.cross_entropy(net(x), y).backward()
    true = {name: p.grad for name, p in net.named_parameters() if name in got}
    z = {name: direction(torch.tensor(0), model.inserted.places[name], g) for name, g in true.items()}
    slope = sum((z[name] * true[name]).sum() for name in true)
    assert abs(slope) > 1e-4 and (train != 5 or got.keys() == dict(net.named_parameters()).keys())
    for name in true:
        torch.testing.assert_close(got[name], slope * z[name], rtol=1e-3, atol=1e-7)


class Tied(nn.Module):
    """One weight in two layers, and one layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(self.b(self.a(self.b(x).tanh()).tanh()))


def test_a_tied_weight_moves_in_all_its_places():
    torch.manual_seed(0)
    (x, y), net = batch(), Tied().double()
    got, model = gradients_of(net, lf.ZerothOrder(train=["b"], scale=1e-6), x, y)
    F.cross_entropy(net(x), y).backward()
    true = {name: p.grad for name, p in net.named_parameters() if name in ("a.weight", "b.bias")}
    z = {name: direction(torch.tensor(0), model.inserted.places[name], true[name]) for name in true}
    slope = sum((z[name] * true[name]).sum() for name in true)
    assert got.keys() == true.keys()
    for name in true:
        torch.testing.assert_close(got[name], slope * z[name], rtol=1e-4, atol=1e-8)


def test_many_directions_average_to_the_gradient():
    (x, y), net = batch(), tiny()
    got, _ = gradients_of(net, lf.ZerothOrder(samples=3000, scale=1e-6), x, y)
    F.cross_entropy(net(x), y).backward()
    flat = torch.cat([got[n].flatten() for n in ("2.weight", "2.bias")])
    true = torch.cat([p.grad.flatten() for p in net[2].parameters()])
    assert F.cosine_similarity(flat, true, dim=0) > 0.98  # sqrt(27 / 3000) off at most
    assert flat.norm() == pytest.approx(float(true.norm()), rel=0.1)


def test_each_step_takes_another_direction_and_a_resumed_one_the_same():
    (x, y), net = batch(), tiny()
    model = lf.rewrite(net, lf.ZerothOrder(), x)
    model.train()

    def step():
        model.zero_grad()
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
        return model.get_parameter("2.weight").grad.sign()

    first, second = step(), step()
    assert not torch.equal(first.abs() * first, second) and not torch.equal(first, -second)
    model.inserted.counter.fill_(0)
    assert torch.equal(step(), first)


def test_the_first_inference_is_that_of_the_unperturbed_model():
    (x, y), net = batch(), tiny()
    plain = net(x)
    model = lf.rewrite(net, lf.ZerothOrder(scale=0.1), x)
    model.train()
    with model.step(y):
        assert torch.equal(model(x), plain)


def test_a_head_learns_at_the_peak_memory_of_inference():
    net, x, y = ResNet8(), torch.zeros(1, 3, 32, 32), torch.tensor([1])
    model = lf.rewrite(net, lf.ZerothOrder(), x)
    for width in ("fp32", "int8"):
        inference = price(trace_inference(model, x), model, width=width)
        step = step_cost(model, (x, y), width=width)
        assert step.peak_ram_bytes < 1.05 * inference.peak_ram_bytes


def test_it_refuses_parts_of_layers_and_a_scale_of_zero():
    (x, _), net = batch(), tiny()
    with pytest.raises(lf.RewriteError, match="whole layers"):
        lf.rewrite(net, lf.ZerothOrder(train={"2": 0.5}), x)
    with pytest.raises(lf.RewriteError, match="scale=0"):
        lf.rewrite(net, lf.ZerothOrder(scale=0), x)
