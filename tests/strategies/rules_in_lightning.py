"""Rules with gradients of the loss and rules with losses of their own, for what users of Lightning expect of a strategy."""

import pytest
import torch
from method_table import NETS, Task, as_pretrained, tensors
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf

RULES = {
    "backprop": lf.Backprop,
    "sparse_update": lambda: lf.SparseUpdate(2),
    "forward_forward": lf.ForwardForward,
    "local_loss": lambda: lf.LocalLoss(batch_norm="freeze"),
    "pepita": lf.Pepita,
    "pepita recompute": lambda: lf.Pepita(recompute=True),
}


every_rule = pytest.mark.parametrize("rule", RULES)


def task(kind="mlp", cls=Task, **settings):
    torch.manual_seed(1)
    return cls(NETS[kind](), **settings)


def moved(module, before):
    return [n for n, t in tensors(module).items() if n in before and not torch.equal(t, before[n])]


class OwnLayers(Task):
    """Layers directly on the LightningModule."""

    def __init__(self, _network=None, **settings):
        super().__init__(nn.Identity(), **settings)
        self.conv, self.bn = nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)
        as_pretrained(self)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, 0.9)
