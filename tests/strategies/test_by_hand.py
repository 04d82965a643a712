"""``tools/benchmarks/by_hand.py``, which the rules' steps are timed against, takes the rules' own steps."""

import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import hash32, wrong_labels
from lightning_fwd.graph.weight_directions import direction
from lightning_fwd.models import MLP

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from benchmarks.by_hand import BY_HAND, Plain  # noqa: E402

STEPS = 12


def _trained(module: Plain, strategy) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(32 * STEPS, 64, generator=generator), torch.randint(0, 10, (32 * STEPS,), generator=generator)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(accelerator="cpu", devices=1, max_epochs=1, strategy=strategy, **quiet).fit(module, DataLoader(TensorDataset(x, y), 32))
    return lf.unwrap(module).net


def _take_draws(module: Plain, rule: str, net: nn.Module) -> None:
    """Give the module by hand what the rule draws by its seed."""
    inserted = lf.rewrite(net, rule, torch.rand(2, 64)).inserted
    if rule == "local_loss":
        module.head.load_state_dict(inserted.heads["0"].linear.state_dict())
    elif rule == "pepita":
        module.feedback.copy_(inserted.feedback.matrix)
    elif rule == "direct_feedback":
        module.feedback.copy_(inserted.feedback[0].matrix)
    elif rule == "forward_forward":
        module.wrong = lambda y: wrong_labels(y, 10, torch.tensor(module.global_step) * 2 + hash32(0))
    elif rule == "zeroth_order":
        places = [inserted.places[f"classifier.{name}"] for name in ("weight", "bias")]
        module.directions = lambda: tuple(
            direction(torch.tensor(module.global_step) * 1024 + hash32(0), place, p)
            for place, p in zip(places, (module.last.weight, module.last.bias), strict=True)
        )


@pytest.mark.parametrize("rule", BY_HAND)
def test_the_step_by_hand_is_the_rules(rule):
    start = MLP(64, (64,)).state_dict()
    ours, by_hand, net = Plain(), BY_HAND[rule](), MLP(64, (64,))
    for one in (ours.net, by_hand.net, net):
        one.load_state_dict(start)
    _take_draws(by_hand, rule, net)
    found = _trained(ours, lf.ForwardOnlyStrategy(rule, from_scratch=True)).state_dict()
    expected = _trained(by_hand, "auto").state_dict()
    assert any(not torch.equal(found[name], start[name]) for name in start)
    tolerance = 3e-2 if rule == "zeroth_order" else 2e-3  # its slope is a difference of logits in single precision, by hand it is exact
    for name in start:
        moved = (found[name] - start[name]).abs().max()
        assert (found[name] - expected[name]).abs().max() <= tolerance * moved, name
