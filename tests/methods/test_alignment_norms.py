"""Norms that keep what they were trained on: moved as their input moved, or measured on the training mix of classes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf


class Normed(nn.Module):
    """A norm that reads the input as it is, and one behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.behind, self.head = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.behind(self.mix(self.norm(x)).relu()).relu().mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    """Trained on another mix than anything that it meets later: its statistics are nobody's here."""
    torch.manual_seed(0)
    net = Normed()
    for norm in (net.norm, net.behind):  # far from what they will read
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval()


def home(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 2
    return torch.randn(count, 3, 5, 5, generator=generator) + 2.0 * y[:, None, None, None], y


def aligned(net: nn.Module, rule: lf.Alignment, x: Tensor, y: Tensor, batch: int = 16) -> nn.Module:
    model = lf.rewrite(copy.deepcopy(net), rule, x[:2]).train()
    while rule.unfinished(model):
        for some in torch.arange(len(x)).split(batch):
            with model.step(y[some]):
                loss = F.cross_entropy(model(x[some]), y[some])
            model.backward(loss)
    return lf.unwrap(model).eval()


def test_relative_statistics_undo_what_scales_and_shifts_the_input(net, tmp_path):
    """Exactly so where the norm reads the input, and then nothing is left to do for those behind it."""
    x, y = home()
    file = lf.source_moments(net, [x], tmp_path / "net.moments")
    rule = lf.Alignment(file, strength=0, norms="relative", samples=64)
    away = x * torch.tensor([0.5, 2.0, 3.0])[:, None, None] + torch.tensor([4.0, -1.0, 0.0])[:, None, None]
    assert (net(away) - net(x)).abs().max() > 0.1
    torch.testing.assert_close(aligned(net, rule, away, y)(away), net(x), rtol=1e-2, atol=1e-2)
    at_home = aligned(net, rule, x, y)
    torch.testing.assert_close(at_home(x), net(x), rtol=1e-4, atol=1e-4)
    # the control: recomputed statistics do not give the network back, not even at home
    assert (aligned(net, lf.Alignment(file, strength=0, samples=64), x, y)(x) - net(x)).abs().max() > 0.1
    for name, value in net.named_parameters():
        assert torch.equal(at_home.get_parameter(name), value)  # strength 0: norms alone


def test_the_class_mix_weighs_samples_as_if_there_were_more_of_a_class(net):
    """Three of a class to one of the other in training, one to one here."""
    x, y = home()
    weighed = aligned(net, lf.Alignment(class_mix=[3, 1], samples=64), x, y)
    thrice = torch.cat([x[y == 0].repeat(3, 1, 1, 1), x[y == 1]])
    wanted = aligned(net, lf.Alignment(samples=len(thrice)), thrice, torch.zeros(len(thrice), dtype=torch.int64))
    for name, buffer in wanted.named_buffers():
        torch.testing.assert_close(weighed.get_buffer(name), buffer, rtol=2e-3, atol=2e-3)  # n / (n - 1) of other numbers
    assert not torch.allclose(weighed.norm.running_mean, x.mean((0, 2, 3)), atol=0.1)
    one = aligned(net, lf.Alignment(class_mix=[3, 1], samples=64), x, y, batch=1)
    for name, buffer in weighed.named_buffers():
        torch.testing.assert_close(one.get_buffer(name), buffer, rtol=1e-5, atol=1e-5)


def test_in_an_adaptation_it_gets_the_labels(net, tmp_path):
    x, y = home()
    stage = lf.Stage("alignment", {"class_mix": [3.0, 1.0], "samples": 64})
    done = lf.adapt(net, [stage], (x, y), unlabelled=torch.zeros(4, 3, 5, 5))
    wanted = aligned(net, lf.Alignment(class_mix=[3, 1], samples=64), x, y)
    state = done.network if done.stages[0].kept else lf.adapt(net, [stage], (x, y), held_back=0).network
    torch.testing.assert_close(state.norm.running_mean, wanted.norm.running_mean)
    assert lf.adaptation_cost(net, [stage], x[:1], labelled=64).macs > 0
    with pytest.raises(lf.LightningFwdError, match="learns from labels and got none"):
        lf.adapt(net, [stage], x)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norms": "relative"}, "without the source's moments"),
        ({"class_mix": [1.0]}, "a share for each of 2 classes"),
        ({"class_mix": [1.0, -1.0]}, "a share for each of 2 classes"),
        ({"class_mix": "ab"}, "a share for each of 2 classes"),
        ({"class_mix": [0, 0]}, "a share for each of 2 classes"),
    ],
)
def test_what_cannot_be_is_refused(net, settings, said):
    with pytest.raises(lf.LightningFwdError, match=said):
        lf.rewrite(net, lf.Alignment(**settings), home()[0][:2])
