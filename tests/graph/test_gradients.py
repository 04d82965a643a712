"""Gradients are autograd's, belong to whoever asked, and are copied only where they must be."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import lightning_fwd as lf
from lightning_fwd.graph.gradients import gradients


class Copies(TorchDispatchMode):
    """Shapes of what is cloned."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.clone.default:
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.shapes = []
        return super().__enter__()


def test_are_autograd_s_and_leave_grad_alone():
    net, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(6, 5)
    unused, error = nn.Parameter(torch.ones(2)), torch.randn(6, 3)
    kept = net[0].weight.grad = torch.ones(4, 5)
    tensors = [*net.parameters(), unused]
    wanted = torch.autograd.grad(net(x), tensors, error, allow_unused=True)
    got, owned = gradients(net(x), tensors, error)
    assert owned and got[-1] is None and net[0].weight.grad is kept and torch.equal(kept, torch.ones(4, 5)) and net[2].bias.grad is None
    assert all(torch.equal(a, b) for a, b in zip(got[:-1], wanted[:-1], strict=True))


@pytest.mark.parametrize("shared", ["sum of weights", "the error itself", "kept by a hook"])
def test_no_storage_is_given_twice(shared):
    a, b, x, kept = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3, 4)), torch.randn(5, 4), []
    error = torch.randn(3, 4)
    if shared == "sum of weights":
        got, owned = gradients(F.linear(x, a + b).square().sum(), [a, b])
    elif shared == "the error itself":
        got, owned = gradients(a + x[:3] * 2, [a], error)
        kept.append(error)
    else:
        a.register_hook(kept.append)
        got, owned = gradients((a * b).sum(), [a, b])
    storages = [t.untyped_storage().data_ptr() for t in [*got, *kept]]
    assert owned and len(set(storages)) == len(storages)


def test_a_failing_backward_leaves_grad_alone():
    a = nn.Parameter(torch.ones(3))
    kept = a.grad = torch.ones(3)
    with pytest.raises(RuntimeError):
        gradients(a * 2, [a])  # not a scalar, and no error
    assert a.grad is kept


def test_hooks_that_wait_for_grad_are_not_called_on_the_way():
    a, calls = nn.Parameter(torch.ones(3)), []
    a.register_post_accumulate_grad_hook(calls.append)
    got, owned = gradients((a * 2).sum(), [a])
    assert not owned and not calls and torch.equal(got[0], torch.full((3,), 2.0))


@pytest.mark.parametrize("name", ["backprop", "local_loss", "sparse_update", "direct_feedback", "forward_forward"])
def test_a_step_copies_no_gradient(name):
    net, x, y = nn.Sequential(nn.Linear(6, 17), nn.ReLU(), nn.Linear(17, 4)), torch.randn(8, 6), torch.arange(8) % 4
    model = lf.rewrite(net, name, x[:2]).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    with Copies() as copies:
        model.backward(loss)
    assert [s for s in copies.shapes if s in {(17, 6), (17,), (4, 17), (4,)}] == []
    assert any(p.grad is not None for p in model.parameters())
