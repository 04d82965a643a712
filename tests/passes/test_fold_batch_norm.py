"""Folding changes nothing that the model computes: what is not torch's own layer as it is stays unfolded."""

import copy

import pytest
import torch
from method_table import one_step
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import lightning_fwd as lf


class NormAct(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class ConvSame(nn.Conv2d):
    """As timm's ``Conv2dSame``: it pads by the size of the input, so its forward cannot be traced."""

    def forward(self, x):
        rows, columns = (max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[-2:])
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return F.conv2d(x, self.weight, self.bias, 2)


def image_net(conv, norm):
    return nn.Sequential(nn.Conv2d(2, 3, 1), conv, norm, nn.Flatten(), nn.LazyLinear(3))


def token_net(tokens):
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(tokens), nn.ReLU(), nn.Flatten(), nn.Linear(6 * tokens, 3))


CASES = {
    "folded": (lambda: image_net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (2, 8, 8), True),
    "norm with an activation": (lambda: image_net(nn.Conv2d(3, 4, 3), NormAct(4)), (2, 8, 8), False),
    "convolution that pads itself": (lambda: image_net(ConvSame(3, 4, 3, 2), nn.BatchNorm2d(4)), (2, 8, 8), False),
    "weight norm": (lambda: image_net(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), (2, 8, 8), False),
    "spectral norm": (lambda: image_net(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), (2, 8, 8), False),
    "channels are tokens": (lambda: token_net(7), (7, 5), False),
    "as many tokens as units": (lambda: token_net(6), (6, 5), False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_output_stays_and_a_step_reaches_every_layer(case):
    torch.manual_seed(0)
    make, shape, folds = CASES[case]
    net, x, y = make(), torch.randn(6, *shape), torch.arange(6) % 3
    net(x)
    for norm in (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2.0)
    expected = copy.deepcopy(net).eval()(x)
    for method in (lf.Backprop(batch_norm="fold"), lf.Pepita(batch_norm="fold")):
        own = copy.deepcopy(net)
        model = lf.rewrite(own, method, x)
        assert (len(model.inserted.folded) == 1) == folds
        torch.testing.assert_close(model.eval()(x), expected)
        statistics = {name: buffer.clone() for name, buffer in own.named_buffers() if "running" in name}
        one_step(model, x, y)
        assert all(p.grad is not None for p in own.parameters() if p.requires_grad)
        assert all(torch.equal(own.get_buffer(name), before) for name, before in statistics.items())


def test_a_layer_that_folds_into_something_else_is_refused_and_left_as_it_was(monkeypatch):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train(), torch.randn(2, 2, 8, 8)
    monkeypatch.setattr(
        nn.BatchNorm2d, "forward", lambda self, x: 2 * F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
    )
    before = copy.deepcopy(net)
    with pytest.raises(lf.RewriteError, match="'1' cannot be folded into '0'"):
        lf.rewrite(net, lf.Backprop(batch_norm="fold"), x)
    torch.testing.assert_close(net.state_dict(), before.state_dict())
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
