"""PEPITA's second pass as a tangent: the closed form, the limit of the pass on ``x + F e``, and what it cannot be combined with."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.errors import RewriteError
from lightning_fwd.trace import trace_step


def gradients(net: nn.Module, method: lf.Pepita, x: torch.Tensor, y: torch.Tensor):
    model = lf.rewrite(copy.deepcopy(net), method, x)
    model.train()
    with model.step(y):
        model.backward(F.cross_entropy(model(x), y))
    return model, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def mlp():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))
    return net, torch.randn(5, 12), torch.tensor([0, 1, 2, 3, 0])


class Conv(nn.Module):
    """Stride, batch norm, depthwise, a residual sum, pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.depthwise, self.same, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1), nn.Linear(24, 4)

    def forward(self, x):
        h = F.relu(self.norm(self.stem(x)))
        h = F.relu(self.same(F.relu(self.depthwise(h))) + h)
        return self.head(F.adaptive_avg_pool2d(h, 2).flatten(1))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_closed_form(recompute):
    """``delta_0 = F e``, ``delta_l = 1[h_l > 0] W_l delta_{l-1}``; updates ``-delta_l (x) h_{l-1}``, the last one ``e (x) h``."""
    net, x, y = mlp()
    model, found = gradients(net, lf.Pepita(second_pass="tangent", recompute=recompute), x, y)
    first = net[1](net[0](x))
    second = net[3](net[2](first))
    e = net[4](second).softmax(1) - F.one_hot(y, 4)
    d1 = (first > 0) * (e @ model.inserted.feedback.matrix.t() @ net[0].weight.t())
    d2 = (second > 0) * (d1 @ net[2].weight.t())
    wanted = {"0.weight": -d1.t() @ x, "0.bias": -d1.sum(0), "2.weight": -d2.t() @ first, "2.bias": -d2.sum(0)}
    wanted |= {"4.weight": e.t() @ second, "4.bias": e.sum(0)}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value / 5, atol=1e-7), name


@pytest.mark.parametrize("make", [mlp, lambda: (Conv(), torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 3, 0]))])
def test_it_is_the_limit_for_a_small_f(make):
    """The pass on ``x + F e`` goes to the tangent as F gets smaller, for each layer: in double precision, to three digits."""
    torch.manual_seed(3)
    net, x, y = make()
    net, x, scale = net.double(), x.double(), 1e-6
    hidden = [name for name, _ in net.named_parameters() if not name.startswith(("4.", "head"))]
    _, close = gradients(net, lf.Pepita(feedback_scale=scale), x, y)
    _, tangent = gradients(net, lf.Pepita(feedback_scale=scale, second_pass="tangent"), x, y)
    for name in hidden:
        assert tangent[name].abs().max() > 0 and (close[name] - tangent[name]).norm() < 2e-3 * tangent[name].norm(), name


def test_the_traced_step_holds_no_inner_gradient():
    """Three passes' worth of convolutions: forward, the change through all but the first layer of it, the updates."""
    torch.manual_seed(3)
    net, x, y = Conv().eval(), torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    model = lf.rewrite(net, lf.Pepita(second_pass="tangent", batch_norm="fold"), x)
    targets = [str(n.target) for n in trace_step(model, (x, y)).graph.nodes]
    assert sum("aten.convolution.default" in t for t in targets) == 6 and sum("convolution_backward" in t for t in targets) == 3


@pytest.mark.parametrize("other", [{"variant": "hebbian"}, {"output_error": "modulated"}])
def test_what_a_tangent_cannot_be_combined_with(other):
    net, x, _ = mlp()
    with pytest.raises(RewriteError, match="tangent"):
        lf.rewrite(net, lf.Pepita(second_pass="tangent", **other), x)
