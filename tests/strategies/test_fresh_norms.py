"""A rule that keeps batch norm's statistics, on a network that has none yet, is told before it trains to nothing."""

import warnings

import pytest
import torch
from method_table import NETS, Task, clusters, loader, trainer

import lightning_fwd as lf

KEEPING = [lf.Pepita(), lf.ForwardForward(), lf.SparseUpdate(), lf.Backprop(batch_norm="freeze"), lf.LocalLoss(batch_norm="fold")]
LEARNING = [lf.Backprop(), lf.LocalLoss(), lf.ForwardForward(batch_norm="train"), lf.Statistics()]


def warned(method, net) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(method, max_steps=1).fit(Task(net), loader(net))
    return [str(w.message) for w in caught if "seen no batch yet" in str(w.message)]


@pytest.mark.parametrize("method", KEEPING, ids=lambda m: type(m).__name__)
def test_kept_statistics_of_an_untrained_network_are_told_once(method):
    (message,) = warned(method, NETS["conv"]())
    assert message.startswith(type(method).__name__)
    assert ("batch_norm='train'" in message) == (not isinstance(method, lf.Pepita))


@pytest.mark.parametrize("method", [*KEEPING, *LEARNING], ids=lambda m: type(m).__name__)
def test_trained_networks_and_rules_that_update_them_pass_in_silence(method):
    net = NETS["conv"]()
    if method in KEEPING:
        with torch.no_grad():
            net.train()(clusters(net, 16)[0])
    assert warned(method, net) == []
