"""Parameters by name at every step: those of named_parameters, whatever happened to the network since, and without its walk."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import lightning_fwd as lf
from lightning_fwd.graph.module_table import ModuleTable, trained_at
from lightning_fwd.models import MLP, build


def net():
    shared = nn.Linear(4, 4)
    found = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), nn.Sequential(shared, nn.BatchNorm1d(4)), nn.Linear(4, 4))
    found[4].weight = found[0].weight  # tied
    return found


def exchange(n):
    n[0].weight = nn.Parameter(torch.ones(4, 4))


def untie(n):
    n[4].register_parameter("weight", nn.Parameter(torch.ones(4, 4)))


CHANGES = {
    "nothing": lambda n: None,
    "a parameter exchanged": exchange,
    "a tie cut": untie,
    "a parameter added": lambda n: n[2].register_parameter("slope", nn.Parameter(torch.ones(1))),
    "one taken away": lambda n: n[0].register_parameter("bias", None),
    "one deleted": lambda n: n[0]._parameters.pop("bias", None),
    "a child exchanged": lambda n: n[3].__setitem__(1, nn.Linear(4, 4)),
    "a child added": lambda n: n[3].append(nn.Linear(4, 4)),
    "a layer pruned": lambda n: prune.l1_unstructured(n[1], "weight", 0.5),
    "a layer parametrised": lambda n: parametrizations.weight_norm(n[1]),
    "loaded by assignment": lambda n: n.load_state_dict({k: v.clone() for k, v in n.state_dict().items()}, assign=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_is_named_parameters_after_whatever_happened(change):
    root, table = net(), ModuleTable()
    for _ in range(2):
        assert {k: id(p) for k, p in table.named_parameters(root).items()} == {k: id(p) for k, p in root.named_parameters()}
        assert {id(m) for m in table.modules(root)} == {id(m) for m in root.modules()}
        change(root)
    every = dict(root.named_parameters(remove_duplicate=False))
    there = [(name, tuple(name.split("."))) for name in every]
    assert {name: id(p) for name, p in trained_at(root, there).items()} == {name: id(p) for name, p in every.items()}
    assert not trained_at(root, [("9.weight", ("9", "weight")), ("0.wait", ("0", "wait"))])
    every["1.weight"].requires_grad_(False) if "1.weight" in every else None
    assert "1.weight" not in trained_at(root, there)


def test_scripted_children_and_copies():
    root, table = nn.Sequential(torch.jit.script(nn.Linear(3, 3)), nn.Linear(3, 2)), ModuleTable()
    for _ in range(2):
        assert list(table.named_parameters(root)) == [name for name, _ in root.named_parameters()]
    assert copy.deepcopy(table).named_parameters(net()).keys() == dict(net().named_parameters()).keys()
    assert pickle.loads(pickle.dumps(table)).modules(net())


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "forward_forward", "pepita", "direct_feedback", "sparse_training"])
@pytest.mark.parametrize("make", [lambda: MLP(12, (8,)), lambda: build("small_conv")], ids=["mlp", "conv"])
def test_a_step_walks_over_no_modules(rule, make, monkeypatch):
    network = make()
    x, y = torch.randn(4, *network.input_shape), torch.arange(4)
    model = lf.rewrite(network, rule, x).train()
    walks = []

    def step():
        with model.step(y):
            loss = F.cross_entropy(model(x), y)
        model.backward(loss)

    step()
    walk = nn.Module.named_modules
    monkeypatch.setattr(nn.Module, "named_modules", lambda *args, **named: walks.append(args) or walk(*args, **named))
    step()
    assert not [root for root, *_ in walks if root._modules]  # a masked layer is asked for its own two


def test_what_is_pruned_in_between_still_learns():
    model = lf.rewrite(MLP(12, (8,)), "backprop", x := torch.randn(4, 12)).train()
    for prunes in (False, True):
        if prunes:
            prune.l1_unstructured(model.original.fc1, "weight", 0.5)
        with model.step():
            loss = F.cross_entropy(model(x), torch.arange(4))
        model.backward(loss)
    assert model.original.fc1.weight_orig.grad is not None


def test_a_root_that_is_one_layer_is_pruned_for_good():
    """As Lightning's ModelPruning does it: on the module that stands in the root's place."""
    model = lf.rewrite(nn.Linear(12, 4), "backprop", x := torch.randn(4, 12)).train()
    prune.l1_unstructured(model, "weight", 0.5)
    with model.step():
        loss = F.cross_entropy(model(x), torch.arange(4))
    model.backward(loss)
    prune.remove(model, "weight")
    assert int((model.weight == 0).sum()) == 24 and sorted(name for name, _ in model.named_parameters()) == ["bias", "weight"]
    torch.testing.assert_close(model.eval()(x), F.linear(x, model.weight, model.bias))
