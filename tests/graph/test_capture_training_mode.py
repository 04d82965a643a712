"""What is other in training: modules that draw random numbers, norms of one's own, and modes that come back."""

import copy
import random

import pytest
import torch
from capture_nets import Encoder, StochasticDepth
from method_table import one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph import capture


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) if self.training else x


class LayerDrop(nn.Module):
    """Skipped or not by Python's own generator."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(16, 16)

    def forward(self, x):
        return self.inside(x) * (random.random() < 0.5) if self.training else self.inside(x)


RANDOM = {
    "attention": lambda: nn.Sequential(Encoder(), nn.Identity()),
    "random slope": nn.RReLU,
    "noise": Noise,
    "layer drop": LayerDrop,
    "stochastic depth": StochasticDepth.Path,
}


@pytest.mark.parametrize("rule", ["pepita", "zeroth_order"])
@pytest.mark.parametrize("kind", RANDOM)
def test_rules_that_run_twice_refuse_what_draws_differently_in_each_pass(kind, rule):
    net = nn.Sequential(nn.Linear(16, 16), RANDOM[kind](), nn.Dropout(0.1), nn.LazyLinear(4)).train()
    if kind == "attention":
        net[1][0].t = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    net(torch.zeros(2, 16))
    state = torch.get_rng_state()
    with pytest.raises(lf.RewriteError, match="cannot share what 1.* draws"):
        lf.rewrite(net, rule, torch.zeros(2, 16))
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in net.modules())


class CustomNorm(nn.Module):
    """A batch norm of one's own, by torch's function or by hand."""

    def __init__(self, by_hand):
        super().__init__()
        self.by_hand, self.weight, self.bias = by_hand, nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
        self.register_buffer("mean", torch.zeros(12)), self.register_buffer("var", torch.ones(12))

    def forward(self, x):
        if self.training and self.by_hand:
            self.mean.lerp_(x.mean(0).detach(), 0.1)
            return self.weight * (x - x.mean(0)) + self.bias
        if self.by_hand:
            return self.weight * (x - self.mean) + self.bias
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, self.training)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("rule", ["pepita", "forward_forward", "sparse_update", lf.Backprop(batch_norm="freeze")], ids=str)
def test_norms_of_one_s_own_are_frozen_as_torch_s_are(rule, by_hand):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 12), CustomNorm(by_hand), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 4)).train(), torch.randn(6, 16)
    net(x)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    model = lf.rewrite(net, rule, x)
    one_step(model, x, torch.arange(6) % 4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert not net[1].training and net[3].training
    assert lf.unwrap(model)[1].training


def test_modes_of_submodules_survive():
    net = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)).train()
    net[1].eval()
    capture(net, torch.zeros(2, 16))
    assert [m.training for m in net] == [True, False, True]


def test_tokens_are_no_input_for_rules_that_change_the_input():
    net = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 4))
    tokens = torch.randint(0, 10, (3, 4))
    with pytest.raises(lf.RewriteError, match="torch.int64"):
        lf.rewrite(net, "pepita", tokens)
    one_step(lf.rewrite(net, "local_loss", tokens), tokens, torch.tensor([0, 1, 2]))


class FrozenBackbone(nn.Module):
    """The backbone runs without gradients, as people freeze one."""

    def __init__(self, learns=True):
        super().__init__()
        self.backbone, self.head = nn.Linear(16, 16).requires_grad_(learns), nn.Linear(16, 4)

    def forward(self, x):
        with torch.no_grad():
            h = self.backbone(x)
        return self.head(h)


class Gated(nn.Module):
    """A child whose own forward holds the gradient of its gate back."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(16, 16)

    @torch.no_grad()
    def gate(self, h):
        return h.sigmoid()

    def forward(self, x):
        h = self.inside(x)
        return h * self.gate(h)


def test_gradients_switched_off_stay_off():
    x, y = torch.randn(8, 16), torch.arange(8) % 4
    with pytest.raises(lf.CaptureError, match="switches gradients off"):
        capture(FrozenBackbone(), x)
    assert not capture(FrozenBackbone(learns=False), x).opaque
    net = nn.Sequential(Gated(), nn.Linear(16, 4))
    F.cross_entropy(net(x), y).backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    model = lf.rewrite(net, "backprop", x).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    assert all(torch.allclose(p.grad, w) for p, w in zip(net.parameters(), wanted, strict=True))


class SkipsAtRandom(nn.Module):
    """The root itself skips a layer at random, in training only, between children that form a chain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = self.a(x)
        if not self.training or random.random() < 0.5:
            h = self.b(h)
        return self.o(h)


def test_a_chain_of_children_does_not_leave_out_what_the_root_does_at_random():
    with pytest.raises(lf.CaptureError, match="random numbers"):
        capture(SkipsAtRandom(), torch.zeros(2, 16))


class NoisyRoot(nn.Module):
    """Its own forward adds noise in training."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = self.a(x)
        if self.training:
            h = h * (torch.rand(h.shape[0], 1) < 0.5)
        return self.o(h)


def test_what_the_root_itself_leaves_out_is_named_with_the_way_to_keep_it():
    with pytest.warns(UserWarning, match=r"NoisyRoot.forward .* in training \(rand, lt, mul\).*move that code into a submodule"):
        capture(NoisyRoot(), torch.zeros(2, 16))


def test_scripted_norms_train_and_a_scripted_network_is_refused():
    x, y = torch.randn(8, 16), torch.arange(8) % 4
    net = nn.Sequential(nn.Linear(16, 16), torch.jit.script(nn.Sequential(nn.BatchNorm1d(16), nn.ReLU())), nn.Linear(16, 4))
    plain = copy.deepcopy(net)
    plain(x)
    model = lf.rewrite(net, "backprop", x).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), plain.buffers(), strict=True))
    with pytest.raises(lf.CaptureError, match="TorchScript"):
        capture(torch.jit.script(nn.Linear(16, 4)), x)
