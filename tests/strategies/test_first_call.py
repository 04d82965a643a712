"""Batches that do not tell what the network takes: it is rewritten when training_step first calls it."""

from dataclasses import dataclass

import lightning as L
import pytest
import torch
from method_table import NETS, Task, clusters, loader, tensors, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_fwd as lf


@dataclass
class Pair:
    pixels: Tensor
    classes: Tensor


class Own(Task):
    """Takes its batches apart by itself; ``take`` gives ``(x, y)``."""

    def __init__(self, net, take):
        super().__init__(net)
        self.take = take

    def training_step(self, batch, batch_idx):
        x, y = self.take(batch)
        lf.set_labels(y)
        return F.cross_entropy(self.network(x), y)


def batches(make):
    return DataLoader([make(*clusters(count=8, seed=i)) for i in range(4)], batch_size=None)


KINDS = {
    "nested": (lambda x, y: {"inputs": {"pixels": x}, "targets": {"y": y}}, lambda b: (b["inputs"]["pixels"], b["targets"]["y"])),
    "label first": (lambda x, y: (y, x), lambda b: (b[1], b[0])),
    "dataclass": (Pair, lambda b: (b.pixels, b.classes)),
    "bytes": (lambda x, y: ((x * 20).to(torch.int8), y), lambda b: (b[0] / 20, b[1])),
    "a grid": (lambda x, y: (x.reshape(-1, 1, 4, 4), y), lambda b: (b[0].flatten(1), b[1])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita"])
def test_whatever_a_batch_is(kind, rule):
    make, take = KINDS[kind]
    found = {}
    for strategy in ("auto", rule):
        torch.manual_seed(0)
        module = Own(nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)), take)  # takes nothing else than rows
        trainer(strategy).fit(module, batches(make))
        found[strategy] = tensors(lf.unwrap(module))
    if rule == "backprop":
        assert all(torch.equal(found["auto"][name], t) for name, t in found[rule].items())
    else:
        assert module.network.training and any(not torch.equal(found["auto"][name], t) for name, t in found[rule].items())


def test_a_step_that_draws_its_own_batch():
    class ByIterator(Task):
        def training_step(self, dataloader_iter):
            (x, y), *_ = next(dataloader_iter)
            return F.cross_entropy(self.network(x), y)

    module = ByIterator(NETS["mlp"]())
    trainer("pepita").fit(module, loader())
    assert module.network.has_learned


def test_hooks_of_the_network_run_once_a_call_from_the_first_on():
    calls = []
    module = Own(NETS["mlp"](), KINDS["nested"][1])
    module.network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    trainer("backprop").fit(module, batches(KINDS["nested"][0]))
    assert calls.count(True) == 4  # and some without gradients, by the capture


def test_a_module_that_is_the_network_itself():
    class Root(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = NETS["mlp"]()
            self.more = torch.nn.Linear(4, 4)

        def forward(self, x):
            return self.more(self.layers(x))

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["inputs"]["pixels"]), batch["targets"]["y"])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    found = []
    for strategy in ("auto", "backprop"):
        torch.manual_seed(0)
        module = Root()
        trainer(strategy).fit(module, batches(KINDS["nested"][0]))
        found.append(tensors(lf.unwrap(module)))
        assert "forward" not in vars(module)
    assert all(torch.equal(found[0][name], t) for name, t in found[1].items())


def test_a_loss_without_a_call_of_the_network_is_named():
    class Parts(Task):
        def training_step(self, batch, batch_idx):
            h = batch["inputs"]["pixels"]
            for layer in self.network:
                h = layer(h)
            return F.cross_entropy(h, batch["targets"]["y"])

    module = Parts(NETS["mlp"]())
    with pytest.raises(lf.LightningFwdError, match=r"without calling its network(.|\n)*module="):
        trainer("pepita").fit(module, batches(KINDS["nested"][0]))
    assert "forward" not in vars(module.network)


def test_a_place_that_was_named_and_is_not_there_is_an_error():
    rule = lf.ForwardOnlyStrategy("pepita", input_key="pixels")
    with pytest.raises(lf.LightningFwdError, match="no input tensor in a batch"):
        trainer(rule).fit(Task(NETS["mlp"]()), batches(KINDS["nested"][0]))
