"""Constant factors, arguments, scales and settings that a lowered step must neither drop nor ignore."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.errors import StepError
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.rescale import int_add, int_larger

X, Y = 255 * torch.rand(32, 16, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


class Net(nn.Module):
    """``inside`` says what happens between the layers a, b and h."""

    def __init__(self, inside):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.h, self.inside = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 4), inside

    def forward(self, x):
        return self.inside(self, x)


NETS = {
    "input": lambda net, x: net.h(net.a(x / 255).relu()),
    "hidden": lambda net, x: net.h(net.b(0.25 * net.a(x / 255).relu()).relu()),
    "sum": lambda net, x: net.h(0.25 * (g := net.a(x / 255).relu()) + net.b(g).relu()),
}


def stepped(net, rule):
    model = lf.rewrite(copy.deepcopy(net), rule, X)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    if isinstance(rule, IntegerRule):
        rule.follow(optimizer)
    model.train()
    with model.step(Y):
        logits = model(X)
        model.backward(F.cross_entropy(logits, Y))
    optimizer.step()
    return logits.detach(), dict(model.original.named_parameters())


@pytest.mark.parametrize("name", NETS)
def test_a_constant_factor_on_an_activation(name):
    """Logits, and the change of every weight and bias, against the float step."""
    net, rule = Net(NETS[name]), lf.Backprop() if name != "sum" else lf.SparseUpdate({"h": 1.0})
    (wanted, after), (got, now) = stepped(net, rule), stepped(net, IntegerRule(copy.deepcopy(rule), lf.Integer()))
    assert (got - wanted).abs().max() < 0.08 * wanted.abs().max()
    for key, before in net.named_parameters():
        change, asked = now[key].detach() - before.detach(), after[key].detach() - before.detach()
        if asked.any():
            assert 0.85 < float((change * asked).sum() / asked.square().sum()) < 1.15, key


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (lambda net, x: net.h(torch.add(g := net.a(x).relu(), net.b(g).relu(), alpha=0.25)), "alpha=0.25"),
        (lambda net, x: net.h(torch.div(net.a(x).relu(), 2.0, rounding_mode="floor")), "rounding_mode=floor"),
        (lambda net, x: net.h(F.avg_pool2d(net.a(x).relu().reshape(-1, 6, 2, 2), 1, divisor_override=2).flatten(1)), "divisor_override"),
    ],
)
def test_an_argument_that_changes_values_is_refused(inside, said):
    model = lf.rewrite(Net(inside), IntegerRule(lf.SparseUpdate({"h": 1.0}), lf.Integer()), X)
    with pytest.raises(StepError, match=said):
        model.method.calibrate(model, X, Y)


def test_a_sum_of_scales_far_apart_is_that_of_the_coarser():
    a, b = torch.tensor([100, -3], dtype=torch.int8), torch.tensor([0, 127], dtype=torch.int8)
    coarse, fine = torch.tensor([5], dtype=torch.int8), torch.tensor([27], dtype=torch.int8)
    got, exponent = int_add(a, coarse, b, fine).double(), int_larger(coarse, fine)
    assert int(exponent) == 20
    assert torch.allclose(got * 2.0**-20, a.double() * 2.0**-5 + b.double() * 2.0**-27, atol=2.0**-20)


def one_step(optimizer=None, x=X, **changed):
    net = Net(NETS["input"])
    model = lf.rewrite(net, IntegerRule(lf.Backprop(), lf.Integer()), X)
    with torch.no_grad():
        for name, value in changed.items():
            net.get_parameter(name.replace("__", ".")).fill_(value)
    model.method.follow((optimizer or (lambda net: torch.optim.SGD(net.parameters(), lr=0.1)))(net))
    return model.method.run(model, x, Y, torch.tensor(0))


def test_what_would_be_wrong_without_a_word_is_refused():
    with pytest.raises(StepError, match="does not hold a.weight"):
        one_step(lambda net: torch.optim.SGD(net.h.parameters(), lr=0.1))
    with pytest.raises(StepError, match="a.bias reaches 100"):
        one_step(a__bias=100.0)
    with pytest.raises(StepError, match="zero throughout"):
        one_step(x=0 * X)
    with pytest.raises(StepError, match="no numbers"):
        one_step(x=X * torch.nan)
    one_step()


def test_groups_that_a_schedule_drives_apart_are_refused_and_momentum_is_read_again():
    net = Net(NETS["input"])
    model = lf.rewrite(net, IntegerRule(lf.Backprop(), lf.Integer()), X)
    optimizer = torch.optim.SGD([{"params": net.a.parameters()}, {"params": net.h.parameters()}], lr=0.1, momentum=0.9)
    model.method.follow(optimizer)
    for group in optimizer.param_groups:
        group["momentum"] = 0.5
    model.method.run(model, X, Y, torch.tensor(0))
    assert int(model.method.rate.integers()[2]) == 1 << 14
    optimizer.param_groups[1]["lr"] = 0.0
    with pytest.raises(StepError, match="parameter groups"):
        model.method.run(model, X, Y, torch.tensor(1))
