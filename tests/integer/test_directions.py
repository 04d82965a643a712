"""Zeroth order in integers: displaced weights, and changes that are the gradient on average."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.errors import StepError
from lightning_fwd.graph.weight_directions import direction
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.directions import int_moved, int_moved_bias, int_slope, int_slope_shift
from lightning_fwd.integer.rate import Rate

COUNTER = torch.tensor(5)


def test_weights_move_by_the_float_rules_signs():
    masters = torch.randint(-20000, 20000, (4, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    exponents = torch.tensor([5, 7, 9, 30], dtype=torch.int8)
    steps = torch.tensor([1, 4, 16, 64])[:, None, None]  # asked for 2^-7: at least one step of the coarsest row, at most 64 of its own
    signs = direction(COUNTER * 3 + 2, 4, torch.zeros(4, 3, 3)).long()
    assert torch.equal(int_moved(masters, exponents, COUNTER, 3, 6, 7).long(), ((masters.long() >> 8) + signs * steps).clamp(-128, 127))
    bias = torch.arange(6, dtype=torch.int32)
    signs = direction(COUNTER * 3 + 2, 4, torch.zeros(6)).long()
    assert torch.equal(int_moved_bias(bias, None, COUNTER, 3, 6, 7).long(), bias + signs * 2**11)
    assert torch.equal(int_moved_bias(bias, exponents, COUNTER, 3, 6, 7).long(), bias + signs * 2**13)  # as far as the weight beside it


@pytest.mark.parametrize("size", [1, 1 << 10, 1 << 30])
def test_a_slope_has_sixteen_bits_whatever_its_size(size):
    g = torch.Generator().manual_seed(1)
    e = torch.randint(-32767, 32768, (64, 10), generator=g).to(torch.int16)
    after, before = (torch.randint(-size, size + 1, (64, 10), generator=g).to(torch.int32) for _ in range(2))
    shift = int_slope_shift(e, after, before)
    got, wanted = int_slope(e, after, before, shift), (e.double() * (after.double() - before.double())).sum()
    assert abs(float(got) * 2.0 ** int(shift) / float(wanted) - 1) < 1e-3
    assert not int_slope(e, after, after, int_slope_shift(e, after, after)).any()


def test_the_mean_change_is_the_gradient():
    """Of a linear network over 600 steps from the same weights, against the closed form ``(p - y) x^T``."""
    torch.manual_seed(0)
    net, x, y = nn.Linear(6, 3), torch.randn(16, 6), torch.arange(16) % 3
    model = lf.rewrite(net, IntegerRule(lf.ZerothOrder("head", scale=0.03), lf.Integer()), x)
    model.method.rate = Rate(1.0, 0.0)
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    total = {k: torch.zeros_like(p) for k, p in before.items()}
    for counter in range(600):
        step, results = model.method.run(model, x, y, torch.tensor(counter))
        new = {u.name: u.value for u in model.method._new_state(model, step, results)}
        for k in total:
            total[k] += (before[k] - new[k]) / 600
    error = (F.linear(x, *before.values()).softmax(1) - F.one_hot(y, 3)) / len(x)
    for k, wanted in (("weight", error.t() @ x), ("bias", error.sum(0))):
        assert F.cosine_similarity(total[k].flatten(), wanted.flatten(), dim=0) > 0.9, k
        assert 0.8 < float(total[k].norm() / wanted.norm()) < 1.25, k


def test_momentum_is_refused_by_name():
    x, y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    model = lf.rewrite(nn.Linear(6, 3), IntegerRule(lf.ZerothOrder(), lf.Integer()), x)
    model.method.rate = Rate(0.1, 0.9)
    with pytest.raises(StepError, match="no velocity"):
        model.method.calibrate(model, x, y)
