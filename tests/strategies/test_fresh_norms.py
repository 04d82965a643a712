"""A rule that keeps batch norm's statistics, or trains no features, refuses a network that has none yet, and names the rules that can."""

import pytest
import torch
from method_table import Task, clusters, loader, tensors, trainer
from torch import nn

import lightning_fwd as lf
from lightning_fwd.models import SmallConv

KEEPING = [
    lf.Pepita(),
    lf.ForwardForward(),
    lf.SparseUpdate(),
    lf.Backprop(batch_norm="freeze"),
    lf.LocalLoss(batch_norm="fold"),
    lf.ZerothOrder(),
]
ONLY_STATISTICS = [lf.Statistics(), lf.Alignment()]
LEARNING = [lf.Backprop(), lf.LocalLoss(), lf.ForwardForward(batch_norm="train"), lf.SparseTraining(), lf.DirectFeedback()]


def fit(method, net, example=False, **settings):
    module = Task(net)
    if example:
        module.example_input_array = clusters(net, 2)[0]
    trainer(lf.ForwardOnlyStrategy(method, **settings), max_steps=1).fit(module, loader(net))
    return module


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("method", [*KEEPING, *ONLY_STATISTICS], ids=lambda m: type(m).__name__)
def test_an_untrained_network_is_refused_before_anything_is_changed(method, example):
    net = SmallConv(1, (6, 8), 4)
    before, flags = tensors(net), [p.requires_grad for p in net.parameters()]
    with pytest.raises(
        lf.LightningFwdError, match=r"looks untrained(.|\n)*'backprop'(.|\n)*'local_loss'(.|\n)*from_scratch=True"
    ) as refused:
        fit(method, net, example)
    assert ("head='layers'" in str(refused.value)) == isinstance(method, lf.ForwardForward)
    assert all(torch.equal(t, before[n]) for n, t in tensors(net).items()) and [p.requires_grad for p in net.parameters()] == flags


@pytest.mark.parametrize("method", [*KEEPING, *ONLY_STATISTICS], ids=lambda m: type(m).__name__)
def test_asked_for_it_trains(method):
    assert fit(method, SmallConv(1, (6, 8), 4), from_scratch=True).network.has_learned


@pytest.mark.parametrize("method", LEARNING, ids=lambda m: type(m).__name__)
def test_rules_that_train_batch_norm_along_start_from_scratch(method):
    assert fit(method, SmallConv(1, (6, 8), 4)).network.has_learned


@pytest.mark.parametrize("method", KEEPING, ids=lambda m: type(m).__name__)
def test_trained_networks_pass(method):
    net = SmallConv(1, (6, 8), 4)
    with torch.no_grad():
        net.train()(clusters(net, 16)[0])
    assert fit(method, net).network.has_learned
    without = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    without.input_shape, without.num_classes = (1, 8, 8), 4
    assert fit(method, without).network.has_learned
