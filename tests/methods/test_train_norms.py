"""Only the scales and shifts of norms: by their gradient, and by zeroth order, whose estimate it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.models import SmallConv

NORMS = {"train": "norms"}


def gradients(net, method, x, y):
    model = lf.rewrite(copy.deepcopy(net), method, x[:2]).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = SmallConv(1, (6, 8), 3).eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return net, torch.randn(6, 1, 8, 8), torch.arange(6) % 3


def test_the_gradient_s_are_autograd_s(case):
    net, x, y = case
    F.cross_entropy(net(x), y).backward()
    wanted = {name: p.grad for name, p in net.named_parameters() if isinstance(net.get_submodule(name.rpartition(".")[0]), nn.BatchNorm2d)}
    got = gradients(net, lf.SparseUpdate(**NORMS), x, y)
    assert got.keys() == wanted.keys() and len(got) == 4
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


def test_zeroth_order_comes_near_it_with_more_directions(case):
    """Of n values and k directions the squared cosine is about k / (n + k - 1): the mean of k slopes along random signs."""
    net, x, y = case
    true = torch.cat([g.flatten() for g in gradients(net, lf.SparseUpdate(**NORMS), x, y).values()])
    near = {}
    for k in (4, 256):
        estimate = gradients(net, lf.ZerothOrder(**NORMS, scale=1e-3, samples=k), x, y)
        near[k] = float(F.cosine_similarity(torch.cat([g.flatten() for g in estimate.values()]), true, dim=0)) ** 2
    assert near[256] > 0.85 > near[4] + 0.2, near  # 28 values: expected 0.90 and 0.13


def test_without_norms_it_is_refused_and_a_module_of_that_name_comes_first():
    x = torch.randn(2, 4)
    with pytest.raises(lf.LightningFwdError, match="has no norm with parameters"):
        lf.rewrite(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), lf.SparseUpdate(**NORMS), x)
    net = nn.Sequential()
    net.add_module("norms", nn.Linear(4, 3))
    net.add_module("last", nn.Linear(3, 2))
    model = lf.rewrite(net, lf.SparseUpdate(**NORMS), x)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"norms.weight", "norms.bias"}
