"""Hooks that users put on the network and its layers do what they do in plain training, or are refused by name."""

import pytest
import torch
from method_table import Task, loader, tensors, trainer
from torch import nn

import lightning_fwd as lf

ROOT_HOOKS = {
    "forward": lambda net: net.register_forward_hook(lambda _m, _args, out: out / 2),
    "forward pre": lambda net: net.register_forward_pre_hook(lambda _m, args: (args[0] * 0.5,)),
    "another shape": lambda net: net.register_forward_pre_hook(lambda _m, args: (args[0].reshape(-1, 4, 2, 2).flatten(1),)),
    "backward pre": lambda net: net.register_full_backward_pre_hook(lambda _m, errors: (errors[0] * 0.2,)),
}


def plain_net():
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))


def trained(strategy, hook):
    torch.manual_seed(0)
    module = Task(plain_net())
    hook(module.network)
    torch.manual_seed(1)
    trainer(strategy).fit(module, loader())
    return tensors(lf.unwrap(module))


@pytest.mark.parametrize("kind", ROOT_HOOKS)
def test_hooks_on_the_network_change_what_they_change_in_plain_training(kind):
    plain, ours = trained("auto", ROOT_HOOKS[kind]), trained("backprop", ROOT_HOOKS[kind])
    assert all(torch.equal(plain[name], t) for name, t in ours.items())


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita", "sparse_update"])
def test_a_backward_hook_on_the_network_sees_the_loss(rule):
    seen = []
    found = trained(rule, lambda net: net.register_full_backward_hook(lambda _m, _inputs, errors: seen.append(errors[0].shape[1])))
    assert set(seen) == {4} and len(seen) == 6 and found


def test_a_backward_hook_that_is_registered_after_the_rewrite():
    seen = []
    model = lf.rewrite(plain_net(), "pepita", torch.zeros(2, 16)).train()
    handle = model.register_full_backward_hook(lambda _m, _inputs, errors: seen.append(errors[0].shape))
    with model.step():
        loss = model(torch.randn(3, 16)).square().mean()
    model.backward(loss)
    assert seen == [(3, 4)] and model.original._is_full_backward_hook
    handle.remove()
    assert not lf.unwrap(model)._backward_hooks


@pytest.mark.parametrize("rule", ["local_loss", "pepita"])
def test_backward_hooks_on_layers_are_refused_where_no_gradient_of_the_loss_comes_by(rule):
    with pytest.raises(lf.RewriteError, match=r"backward hooks(.|\n)* on 2(.|\n)*handle.remove"):
        trained(rule, lambda net: net[2].register_full_backward_hook(lambda _m, inputs, _e: (inputs[0] * 0.1,)))


def test_backward_hooks_on_layers_under_backprop():
    def hook(net):
        net[2].register_full_backward_hook(lambda _m, inputs, _e: (inputs[0] * 0.1,))

    plain, ours = trained("auto", hook), trained("backprop", hook)
    assert all(torch.equal(plain[name], t) for name, t in ours.items())


def test_reentrant_checkpoints_are_refused_in_words_that_help():
    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.last(torch.utils.checkpoint.checkpoint(torch.relu, self.first(x), use_reentrant=True))

    with pytest.raises(lf.CaptureError, match="use_reentrant=False"):
        lf.rewrite(Recomputed().train(), "backprop", torch.zeros(2, 16))
