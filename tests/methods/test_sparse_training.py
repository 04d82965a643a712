"""Sparse training: the density is exact, weights move, the plain model holds the zeros."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.methods.sparse_training import allocate
from lightning_fwd.models import MLP

SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5)


@given(SHAPES, st.floats(0.01, 1.0), st.sampled_from(["erdos_renyi", "uniform"]))
def test_the_allocation_is_exact(shapes, density, distribution):
    named = {str(i): s for i, s in enumerate(shapes)}
    counts = allocate(named, density, distribution)
    sizes = {n: math.prod(s) for n, s in named.items()}
    assert all(1 <= counts[n] <= sizes[n] for n in named)
    assert sum(counts.values()) == max(round(density * sum(sizes.values())), len(sizes))


def trained(method, steps: int = 40, lr: float = 0.1):
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    y = (x[:, :4].argmax(1)) % 4
    model = lf.rewrite(MLP(16, (24, 20), 4), method, x)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    masks, densities, losses = [], [], []
    for _ in range(steps):
        optimizer.zero_grad()
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
        densities.append(lf.SparseTraining.density_of(model))
        masks.append(torch.cat([m.mask.flatten() for m in model.inserted.weight_masks.values()]))
    return model, x, masks, densities, losses


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_the_density_is_exact_at_every_step_while_the_weights_move(regrow):
    model, x, masks, densities, losses = trained(lf.SparseTraining(density=0.2, regrow=regrow, interval=5, until=30))
    total = 16 * 24 + 24 * 20 + 20 * 4
    assert set(densities) == {round(0.2 * total) / total}
    changed = [i for i in range(1, len(masks)) if not torch.equal(masks[i], masks[i - 1])]
    assert changed and {i % 5 for i in changed} == {0} and max(changed) <= 30
    moved = [int((masks[i] - masks[i - 1]).abs().sum()) for i in changed]
    assert moved[0] > moved[-1]  # fewer and fewer
    assert losses[-1] < 0.95 * losses[0]
    model.eval()
    predicted = model(x)
    stored = {k: v for k, v in model.state_dict().items() if k.endswith("weight") and "_lfwd" not in k}
    net = lf.unwrap(model)
    torch.testing.assert_close(net(x), predicted)
    weights = {n: p for n, p in net.named_parameters() if n.endswith("weight")}
    alive = sum(int(w.count_nonzero()) for w in weights.values())
    assert 0.95 * round(0.2 * total) <= alive <= round(0.2 * total)  # a regrown weight behind a dead unit stays at 0
    for name, weight in weights.items():
        assert torch.equal(stored[name], weight)


def test_a_regrown_weight_starts_at_zero_and_goes_where_the_gradient_is():
    torch.manual_seed(0)
    x, y = torch.randn(8, 16), torch.arange(8) % 4
    model = lf.rewrite(MLP(16, (24,), 4), lf.SparseTraining(density=0.3, interval=1, fraction=0.5), x)
    model.train()
    for _ in range(2):
        before = {k: m.mask.clone() for k, m in model.inserted.weight_masks.items()}
        model.zero_grad()
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
    grown = model.inserted.weight_masks["fc1"].mask - before["fc1"] > 0
    assert grown.any() and (model.get_parameter("fc1.weight")[grown] == 0).all()


def test_before_training_the_model_is_the_original():
    x, net = torch.randn(3, 16), MLP(16, (24,), 4).eval()
    plain = net(x)
    model = lf.rewrite(net, lf.SparseTraining(), x)
    assert torch.equal(model(x), plain)
    assert torch.equal(lf.unwrap(model)(x), plain)


class Unusual(nn.Module):
    """A weight in two layers, a scale that is no layer's, a layer without bias."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(16))
        if tied:
            self.b.weight = self.a.weight

    def forward(self, x):
        return self.head((self.b(self.a(x).relu()) * self.scale).relu())


def test_a_weight_of_two_layers_cannot_have_two_masks():
    x = torch.randn(3, 16)
    with pytest.raises(lf.RewriteError, match="a and b share one weight"):
        lf.rewrite(Unusual(tied=True), lf.SparseTraining(), x)
    assert set(lf.rewrite(Unusual(tied=True), lf.SparseTraining(dense=["a", "b"]), x).inserted.weight_masks) == {"head"}


def test_a_bare_parameter_stays_dense():
    model = lf.rewrite(Unusual(tied=False), lf.SparseTraining(density=0.25), torch.randn(3, 16))
    assert set(model.inserted.weight_masks) == {"a", "b", "head"} and lf.SparseTraining.density_of(model) == 0.25


class Scaled(nn.Linear):
    """Traced through: the graph reads its weight. Its first parameter is another."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self._parameters = {"scale": nn.Parameter(torch.ones(sizes[1])), **self._parameters}

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) * self.scale


class InItsWay(nn.Module):
    """Layers called with keywords and with two inputs, one whose weight another reads, one that is no module of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(16, 8), nn.Bilinear(8, 8, 16), nn.Linear(16, 8), Scaled(16, 4)

    def forward(self, x):
        h = self.b(self.a(input=x).relu(), self.c(x).relu())
        return self.head(F.linear(self.c(h.relu()), self.c.weight.t()))


def test_a_weight_is_masked_however_its_layer_runs():
    torch.manual_seed(0)
    x, y = torch.randn(8, 16), torch.arange(8) % 4
    model = lf.rewrite(InItsWay(), lf.SparseTraining(density=0.3, interval=2, until=2), x).train()
    assert set(model.inserted.weight_masks) == {"a", "b", "c", "head"}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
        optimizer.step()
    masks = {key: m.mask.clone() for key, m in model.inserted.weight_masks.items()}
    predicted = model.eval()(x)
    net = lf.unwrap(model)
    torch.testing.assert_close(net(x), predicted)
    for path, mask in masks.items():
        assert not net.get_submodule(path).weight[mask == 0].any(), path
    assert (
        net.head.scale.grad.any() and abs(sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values()) - 0.3) < 1e-3
    )


@pytest.mark.parametrize(
    "settings",
    [dict(density=0.0), dict(density=1.5), dict(fraction=2.0), dict(interval=0), dict(dense=["a", "b", "head"]), dict(dense=["c"])],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(lf.RewriteError):
        lf.rewrite(Unusual(tied=False), lf.SparseTraining(**settings), torch.randn(3, 16))
