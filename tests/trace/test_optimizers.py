"""The optimizers of the step graph against torch's, and what of torch's they leave out."""

import copy

import pytest
import torch
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.models import MLP
from lightning_fwd.trace import of_torch, trace_step

SETTINGS = {
    "sgd": (torch.optim.SGD, dict(weight_decay=0.1)),
    "sgd, nesterov": (torch.optim.SGD, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
    "adam": (torch.optim.Adam, dict(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)),
    "adam, amsgrad": (torch.optim.Adam, dict(amsgrad=True)),
    "adamw": (torch.optim.AdamW, dict(weight_decay=0.1)),
    "adamw, amsgrad": (torch.optim.AdamW, dict(amsgrad=True, weight_decay=0.1)),
}
#: a value of each setting that is not torch's default
CHANGED = {
    "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.3, "nesterov": True, "maximize": True, "betas": (0.5, 0.9), "eps": 1e-3,
    "amsgrad": True,
    "decoupled_weight_decay": True,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), SETTINGS.values(), ids=SETTINGS)
def test_three_steps_are_torch_s(kind, settings, monkeypatch):
    torch.manual_seed(0)
    net, x, y = MLP(hidden=(8,)), torch.randn(4, 64), torch.arange(4)
    model, shadow, state = lf.rewrite(net, "backprop", x), copy.deepcopy(net), {}
    reference = kind(shadow.parameters(), lr=0.01, **settings)
    ours, left_out = of_torch(reference)
    step = trace_step(model, (x, y), optimizer=ours)
    for _ in range(3):
        results = step.run(model, x, y, **state)
        state = {n: t for n, t in results.items() if n in step.state}
        x = x.flip(0)  # gradients that shrink, so that the largest second moment is not the last
        reference.zero_grad()
        F.cross_entropy(shadow(x.flip(0)), y).backward()
        reference.step()
    assert left_out == []
    for name, parameter in shadow.named_parameters():
        torch.testing.assert_close(state[name], parameter.detach())


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_every_setting_is_modelled_or_named_or_costs_nothing(kind):
    def price(**settings):
        return of_torch(kind(MLP(hidden=(8,)).parameters(), lr=0.01, **settings))

    base = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    plain, nothing = price(**base)
    assert nothing == []
    for key in kind(MLP().parameters(), lr=0.01).defaults.keys() - {"lr", "foreach", "fused", "capturable", "differentiable"}:
        if key == "decoupled_weight_decay" and kind is torch.optim.AdamW:
            continue  # it is what AdamW is
        ours, left_out = price(**base | {key: CHANGED[key]})
        assert (ours != plain) != bool(left_out), (key, left_out)


def test_state_and_arithmetic_beyond_the_plain_optimizer_are_priced():
    def price(kind, **settings):
        return lf.step_cost(MLP(hidden=(8,)), torch.zeros(1, 64), optimizer=of_torch(kind(MLP().parameters(), lr=0.01, **settings))[0])

    adam, amsgrad = (price(torch.optim.Adam, amsgrad=flag) for flag in (False, True))
    parameters = adam.parameters_trained
    assert amsgrad.ram_bytes_by_category["optimizer state"] - adam.ram_bytes_by_category["optimizer state"] == 4 * parameters
    for kind, base, more in (
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.AdamW, {"weight_decay": 0.0}, {"weight_decay": 0.1}),
    ):
        assert price(kind, **more).total_elementwise >= price(kind, **base).total_elementwise + parameters


def test_groups_that_differ_and_classes_of_one_s_own_are_named():
    class Mine(torch.optim.Adam):
        pass

    net = MLP(hidden=(8,))
    weights, biases = ([p for p in net.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    ours, left_out = of_torch(torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases}], lr=0.01))
    assert ours.weight_decay == 0.1 and "weight_decay differs between parameter groups (0.1, 0)" in left_out[0]
    assert "what Mine adds to Adam" in of_torch(Mine(net.parameters()))[1][0]
    assert "RMSprop" in of_torch(torch.optim.RMSprop(net.parameters()))[1][0]
