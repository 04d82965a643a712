"""Recomputed batch-norm statistics: those that torch's own batch norm would collect, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import price, step_cost
from lightning_fwd.models import SmallConv
from lightning_fwd.trace import trace_inference


def drifted_batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(6, 1, 8, 8, generator=generator) + 1 for _ in range(4)]


def run(net: nn.Module, method: lf.Statistics, batches: list[Tensor]) -> nn.Module:
    model = lf.rewrite(copy.deepcopy(net), method, batches[0])
    model.train()
    for x in batches:
        with model.step():
            loss = F.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.int64))
        model.backward(loss)
    return lf.unwrap(model)


@pytest.mark.parametrize("momentum", [None, 0.1, 0.7])
def test_they_are_those_of_torchs_batch_norm_in_training(momentum):
    """momentum None: torch's cumulative average since a reset; a number: its running average, unbiased variance."""
    torch.manual_seed(0)
    net, batches = SmallConv(1, (6, 8), 4), drifted_batches()
    reference = copy.deepcopy(net).train()
    for norm in (m for m in reference.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = momentum
        if momentum is None:
            norm.reset_running_stats()
    with torch.no_grad():
        for x in batches:
            reference(x)
    got = run(net, lf.Statistics(momentum), batches)
    for (name, wanted), after, before in zip(reference.named_buffers(), got.buffers(), net.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(after, before)
    for before, after in zip(net.parameters(), got.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_step_is_one_inference():
    net, x, y = SmallConv(1, (6, 8), 4), torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    model = lf.rewrite(net, lf.Statistics(), x)
    step, inference = step_cost(model, (x, y)), price(trace_inference(model, x), model)
    assert step.total_macs == inference.total_macs and not step.macs_by_phase.get("backward") and step.parameters_trained == 0


class NormAct(nn.BatchNorm2d):
    """As timm's ``BatchNormAct2d``."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


def test_a_norm_with_a_forward_of_its_own_keeps_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), NormAct(4), nn.Conv2d(4, 4, 3), NormAct(4), nn.Flatten(), nn.Linear(64, 4))
    reference, batches = copy.deepcopy(net).train(), drifted_batches()
    with torch.no_grad():
        logits = [reference(x) for x in batches][0]
    got = run(net, lf.Statistics(0.1), batches)
    for (name, wanted), after in zip(reference.named_buffers(), got.buffers(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-6)
    model = lf.rewrite(net, "statistics", batches[0]).train()
    with model.step():
        torch.testing.assert_close(model(batches[0]), logits)
    assert not net[1].training and net[1].momentum == 0.1 and net[1].num_batches_tracked == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(self.bn(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "x", "method", "message"),
    [
        (nn.Linear(4, 3), torch.zeros(2, 4), lf.Statistics(), "no batch norm"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)), torch.zeros(2, 4), lf.Statistics(), "no batch norm"),
        (Twice(), torch.zeros(2, 2, 4, 4), lf.Statistics(), "called twice"),
        (SmallConv(1, (4,), 3), torch.zeros(2, 1, 8, 8), lf.Statistics(momentum=0.0), "momentum=0.0"),
    ],
)
def test_what_it_cannot_do_is_said(net, x, method, message):
    with pytest.raises(lf.RewriteError, match=message):
        lf.rewrite(net, method, x)


def test_a_single_value_has_no_variance():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(lf.LightningFwdError, match="one value per channel"):
        run(net, lf.Statistics(), [torch.randn(2, 4), torch.randn(1, 4)])


class Dropping(nn.Module):
    """Dropout before batch norms: as a module, as a function, inside attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.attention = (
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True),
        )
        self.second, self.third, self.head = nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.drop(self.first(x)))
        h = self.third(F.dropout(h, 0.5, self.training)).unsqueeze(1)
        return self.head(self.attention(h, h, h)[0].flatten(1))


def test_dropout_is_off_while_they_are_collected():
    torch.manual_seed(0)
    net, x = Dropping().train(), torch.randn(20, 6)
    reference, modes = copy.deepcopy(net), [m.training for m in net.modules()]
    with torch.no_grad():
        h = reference.second(reference.first(x))
        reference.third(h)
    got = run(net, lf.Statistics(0.1), [x])
    for name in ("second", "third"):
        torch.testing.assert_close(got.get_buffer(f"{name}.running_var"), reference.get_buffer(f"{name}.running_var"))
    assert [m.training for m in got.modules()] == modes
