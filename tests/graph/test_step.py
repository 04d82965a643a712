"""What a step hands out, and what becomes of it."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


class Reparametrised(nn.Module):
    """The first layer's weight is a sum, so autograd hands the same gradient tensor to both of its terms."""

    def __init__(self):
        super().__init__()
        self.base, self.delta = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.zeros(6, 5))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(F.linear(x, self.base + self.delta)))


@pytest.mark.parametrize("rule", [lf.Backprop(), lf.LocalLoss(), lf.SparseUpdate(2), lf.Pepita()], ids=lambda rule: type(rule).__name__)
def test_no_two_parameters_share_the_memory_of_a_gradient(rule):
    x, y = torch.randn(8, 5), torch.arange(8) % 3
    model = lf.rewrite(Reparametrised(), rule, x).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    storages = [p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None]
    assert len(storages) == len(set(storages)) >= 2


def test_accumulation_and_clipping_equal_autograd_where_two_parameters_get_one_gradient():
    net, x, y = Reparametrised(), torch.randn(8, 5), torch.arange(8) % 3
    F.cross_entropy(net(x), y).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    model = lf.rewrite(net, lf.Backprop(), x).train()
    for part in (slice(0, 4), slice(4, 8)):
        with model.step(y[part], loss_scale=0.5):
            loss = F.cross_entropy(model(x[part]), y[part]) / 2
        model.backward(loss)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5 * float(norm), foreach=False)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name] * 0.5, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("rule", [lf.Backprop(), lf.LocalLoss(), lf.ForwardForward(), lf.SparseUpdate(2), lf.Pepita()], ids=repr)
def test_forward_calls_of_one_step_add_up(rule):
    """As the losses do: each call is a batch of its own, in the local losses too."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 5), torch.arange(8) % 3
    model = lf.rewrite(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), rule, x[0]).train()
    gradients = []
    for calls in ([0, 1], [0], [1]):
        model.inserted.counter.fill_(calls[0])  # what a call draws depends on the number of its step
        with model.step(y):
            losses = [F.cross_entropy(model(x[i]), y) for i in calls]
        model.backward(sum(losses))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
    assert int(model.inserted.counter) == 2
    for both, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [lf.Backprop(), lf.Pepita()], ids=lambda r: type(r).__name__)
def test_a_forward_whose_logits_are_gone_is_forgotten(rule):
    """No loss can reach it: it keeps no memory, is no step, and does not disturb the one that is learned from."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 5), torch.arange(8) % 3
    model = lf.rewrite(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), rule, x).train()
    logits = model(x)
    forgotten = weakref.ref(model.pending[0][1])
    del logits
    gc.collect()
    assert forgotten() is None and len(model.pending) == 0  # not with the next training forward: validation may come before it
    for _ in range(5):
        model(x)
    logits = model(x)
    assert len(model.pending) == 1
    model.backward(F.cross_entropy(logits, y))
    got = [p.grad for p in model.parameters()]
    assert int(model.inserted.counter) == 1
    model.zero_grad(set_to_none=True)
    model.inserted.counter.zero_()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    assert all(torch.equal(a, p.grad) for a, p in zip(got, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("rule", [lf.LocalLoss(), lf.ForwardForward(negatives="hard")], ids=lambda r: type(r).__name__)
def test_labels_may_be_any_whole_numbers(rule, dtype):
    x, y, gradients = torch.randn(8, 5), torch.arange(8) % 3, []
    for labels in (y, y.to(dtype)):
        torch.manual_seed(0)
        model = lf.rewrite(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), rule, x).train()
        with model.step(labels):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
