"""Autograd may give one storage to several gradients: no rule, and nothing behind it, writes into one that it does not own."""

import pytest
import torch
from method_table import CLASSES, ROWS, one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


class Sum(nn.Module):
    """A linear layer whose weight is a sum of two, and a bias that is one as well."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(F.relu(F.linear(x, self.a.weight + self.b.weight, self.a.bias + self.b.bias)))


class View(nn.Module):
    """A sum with another shape's view, whose gradient is a view of the other's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 12), nn.Linear(12, 16, bias=False), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(F.relu(F.linear(x, self.a.weight + self.b.weight.view(12, 16), self.a.bias)))


class Expanded(nn.Module):
    """One number for all classes beside the head's own biases: gradients that are sums and views of one error."""

    def __init__(self):
        super().__init__()
        self.a, self.head, self.shift = nn.Linear(16, 12), nn.Linear(12, CLASSES), nn.Linear(12, 1)

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.head(h) + self.shift(h).expand(-1, CLASSES)


class Shortcut(nn.Module):
    """Two branches that are added: the error of the sum is that of both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(F.relu(self.a(x) + self.b(x)))


SHARING = {"sum": Sum, "view": View, "expanded": Expanded, "shortcut": Shortcut}


def gradients(row, net, steps=2):
    """Of some steps, accumulated, then scaled in place as clipping does."""
    torch.manual_seed(2)
    model = lf.rewrite(net(), row.method(), torch.randn(2, 16))
    for _ in range(steps):
        x, y = torch.randn(8, 16), torch.arange(8) % CLASSES
        x_before = x.clone()
        one_step(model, x, y)
        assert torch.equal(x, x_before)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1e-2)
    return found


@pytest.mark.parametrize("net", SHARING.values(), ids=SHARING)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_shared_storage_changes_no_gradient(row, net, monkeypatch):
    try:
        ours = gradients(row, net)
    except lf.RewriteError:  # nothing to fold, or to normalise: refused, so nothing is written
        return
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: tuple(g if g is None else g.clone() for g in grad(*a, **k)))
    apart = gradients(row, net)
    assert ours.keys() == apart.keys() and all(torch.equal(ours[n], apart[n]) for n in ours)


def test_a_sparse_weight_leaves_the_dense_one_of_a_sum_its_gradient():
    torch.manual_seed(0)
    net, x, y = Sum(), torch.randn(8, 16), torch.arange(8) % CLASSES
    model = lf.rewrite(net, lf.SparseTraining(density=0.3, dense=["head"]), x)
    mask = next(iter(model.inserted.weight_masks.values())).mask
    one_step(model, x, y)
    kept = F.linear(x, net.a.weight * mask + net.b.weight, net.a.bias + net.b.bias)
    (dense,) = torch.autograd.grad(F.cross_entropy(net.head(F.relu(kept)), y), net.b.weight)
    assert torch.allclose(net.b.weight.grad, dense, atol=1e-7) and torch.allclose(net.a.weight.grad, dense * mask, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in lf.METHODS if n not in ("statistics", "alignment")])
def test_hooks_on_parameters_change_their_gradients(name):
    """A mask by ``register_hook``, under rules that ask autograd and under those that compute a gradient by hand."""
    grads = []
    for factor in (1.0, 0.5):
        torch.manual_seed(0)
        net, x, y = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)), torch.randn(6, 8), torch.arange(6) % CLASSES
        for p in net.parameters():
            p.register_hook(lambda g, factor=factor: g * factor)
        model = lf.rewrite(net, name, x)
        one_step(model, x, y)
        grads.append([p.grad for p in net.parameters() if p.grad is not None])
    assert grads[0] and len(grads[0]) == len(grads[1]) and any(bool(g.any()) for g in grads[0])
    assert all(torch.allclose(0.5 * g, half, rtol=1e-4, atol=1e-7) for g, half in zip(*grads, strict=True))


def test_a_gradient_that_a_hook_has_kept_stays_as_it_was():
    torch.manual_seed(0)
    net, x, y, kept = Shortcut(), torch.randn(8, 16), torch.arange(8) % CLASSES, []
    model = lf.rewrite(net, lf.Backprop(), x)
    for p in net.parameters():
        p.register_hook(kept.append)
    one_step(model, x, y)
    before = [g.clone() for g in kept]
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    assert kept and all(map(torch.equal, kept, before))
