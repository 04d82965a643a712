"""A network whose weights are as drawn, under rules that would leave it near chance: told before training."""

import warnings

import pytest
import torch
from method_table import NETS, Task, loader, trainer
from torch import nn

from lightning_fwd.strategies.fresh_layers import as_drawn


class Recurrent(nn.Module):
    input_shape = (5, 6)

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(6, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def tanh():
    net = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))
    net.input_shape = (16,)
    return net


@pytest.mark.parametrize(
    ("rule", "make", "warned"),
    [
        ("zeroth_order", tanh, True),
        ("sparse_update", NETS["mlp"], True),
        ("forward_forward", tanh, True),
        ("forward_forward", Recurrent, True),
        ("forward_forward", NETS["mlp"], False),
        ("local_loss", NETS["mlp"], False),
        ("backprop", Recurrent, False),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_what_stays_near_chance_from_scratch_is_told(rule, make, warned, trained):
    torch.manual_seed(0)
    module = Task(make())
    if trained:
        with torch.no_grad():
            for p in module.network.parameters():
                p.mul_(1.5)
    assert as_drawn(module.network) is not trained
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer(rule, max_steps=1).fit(module, loader(module.network))
    assert any("looks untrained" in str(one.message) for one in said) is (warned and not trained)
