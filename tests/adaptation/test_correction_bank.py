"""Stored corrections: the mixture follows the gradient, the network stays where it was when one is stored, a domain comes back."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.cost.device import load_device

VALUES = 4 * 6 + 4


@pytest.fixture
def case():
    torch.manual_seed(0)
    return nn.Linear(6, 4).double(), torch.randn(12, 6).double(), torch.arange(12) % 4


def flat(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach()


def moved(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def test_storing_leaves_the_network_and_keeps_what_it_differs_by(case):
    net, *_ = case
    home, bank = flat(net), lf.CorrectionBank(net, capacity=3)
    wanted = [torch.zeros(VALUES)]
    for seed in range(3):
        moved(net, seed)
        before = flat(net)
        bank.store()
        wanted.append(before - home)
        assert torch.equal(flat(net), before) and torch.equal(bank.corrections, torch.stack(wanted))
    assert len(bank.mixture) == 4


def test_the_mixture_steps_against_the_gradient_of_the_sum_and_the_network_with_it(case):
    net, x, y = case
    home, bank = flat(net), lf.CorrectionBank(net, rate=0.2)
    for seed in range(3):
        moved(net, seed)
        bank.store()
    bank.mixture = torch.tensor([0.5, -0.2, 0.1, 0.3]).double()
    m, before = bank.mixture.clone().requires_grad_(), flat(net)
    new = before - home - m.detach().softmax(0) @ bank.corrections  # what no mixture explains
    whole = home + m.softmax(0) @ bank.corrections + new
    torch.testing.assert_close(whole.detach(), before)
    F.cross_entropy(functional_call(net, {"weight": whole[:24].view(4, 6), "bias": whole[24:]}, (x,)), y).backward()
    F.cross_entropy(net(x), y).backward()
    bank.learn()
    torch.testing.assert_close(bank.mixture, m.detach() - 0.2 * m.grad.sign())
    torch.testing.assert_close(flat(net), home + bank.mixture.softmax(0) @ bank.corrections + new)


def test_a_full_bank_gives_up_the_older_of_the_two_most_similar():
    net = nn.Linear(2, 1, bias=False)
    bank = lf.CorrectionBank(net, capacity=3)
    home = flat(net)
    for correction in ([1.0, 0.0], [0.0, 1.0], [0.1, 2.0], [-1.0, 0.0]):
        nn.utils.vector_to_parameters(home + torch.tensor(correction), net.parameters())
        bank.store()
    torch.testing.assert_close(bank.corrections, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.1, 2.0], [-1.0, 0.0]]))
    assert len(bank.mixture) == 4
    single = lf.CorrectionBank(net, capacity=1)
    for _ in range(2):
        moved(net, 0)
        single.store()
    assert len(single.corrections) == 2


def test_a_domain_that_returns_finds_its_correction(case):
    """Two domains whose classes lie otherwise: each is known again at once, and the network as it was for what it knew."""
    net, x, y = case
    home = flat(net)
    model = lf.rewrite(net, "backprop", x).train()
    bank, weights = lf.CorrectionBank(model), []
    for shift in (1, 2):
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        for _ in range(60):
            optimizer.zero_grad()
            with model.step():
                loss = F.cross_entropy(model(x), (y + shift) % 4)
            model.backward(loss)
            bank.learn()
            optimizer.step()
        weights.append(flat(net))
        bank.store()
    loss_of = lambda y: F.cross_entropy(model.eval()(x), y)  # noqa: E731
    assert bank.recall(lambda: loss_of((y + 2) % 4)) == -1
    assert bank.recall(lambda: loss_of((y + 1) % 4)) == 1
    torch.testing.assert_close(flat(net), weights[0])
    known = functional_call(net, {"weight": home[:24].view(4, 6), "bias": home[24:]}, (x,)).argmax(1)
    assert bank.recall(lambda: loss_of(known)) == 0 and torch.equal(flat(net), home)


def test_it_stands_on_the_ledger():
    net, x = nn.Sequential(nn.Linear(60, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4)).eval(), torch.rand(1, 60)
    model = lf.rewrite(net, lf.ZerothOrder("norms", samples=2), torch.rand(2, 60))
    for device in (None, load_device("stm32h735")):
        plain = step_cost(model, x, device)
        bank = lf.CorrectionBank(model, capacity=5)
        cost = bank.beside(plain)
        assert cost.flash_bytes == plain.flash_bytes + 5 * 60 * 4
        assert cost.peak_ram_bytes == plain.peak_ram_bytes + 60 * 4 + 6 * 4  # the gradient at once, the mixture
        assert cost.ram_bytes_by_category["corrections"] == 66 * 4 and cost.peak_activation_bytes == plain.peak_activation_bytes
        assert "corrections" in str(cost) and (device is None or cost.verdict.ram_margin_bytes == plain.verdict.ram_margin_bytes - 66 * 4)
    assert lf.CorrectionBank(model, capacity=5, rate=0.0).beside(plain).peak_ram_bytes == plain.peak_ram_bytes + 6 * 4


def test_what_cannot_be_is_refused(case):
    net, *_ = case
    refused = {"capacity": (0, True, 1.5, None), "rate": (-1.0, float("nan"), float("inf"), "a", None, True)}
    for settings in ({key: value} for key, values in refused.items() for value in values):
        with pytest.raises(lf.LightningFwdError, match="CorrectionBank"):
            lf.CorrectionBank(net, **settings)
    with pytest.raises(lf.LightningFwdError, match="no gradient"):
        lf.CorrectionBank(net).learn()
    with pytest.raises(lf.LightningFwdError, match="nothing in Linear learns"):
        lf.CorrectionBank(copy.deepcopy(net).requires_grad_(False))
    with torch.no_grad():
        net.bias[0] = float("inf")
    with pytest.raises(lf.LightningFwdError, match="what learns in Linear is not all finite"):
        lf.CorrectionBank(net)


def test_a_change_of_domain_is_the_divergence_of_its_channels():
    change, x = lf.DomainChange(threshold=0.5), torch.randn(400, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    p, q = (torch.distributions.Normal(m, s) for m, s in ((0.0, 1.0), (0.5, 2.0)))
    wanted = float(torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p))
    assert [change.see(x), change.see(x + 0.01), change.see(2 * x + 0.5)] == [False, False, True]
    assert change.distance == pytest.approx(wanted, rel=0.05)
    assert [change.see(2 * x + 0.5), change.see(2.1 * x + 0.5), change.see(x)] == [False, False, True]


def test_recall_survives_a_loss_that_fails_and_a_network_that_diverged(case):
    net, x, y = case
    bank = lf.CorrectionBank(net, capacity=3)
    moved(net, 0)
    bank.store()
    moved(net, 1)
    before, calls = flat(net), []

    def fails():
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError
        return 1.0

    with pytest.raises(RuntimeError):
        bank.recall(fails)
    assert torch.equal(flat(net), before)
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    assert bank.recall(lambda: F.cross_entropy(net(x), y)) >= 0 and bool(flat(net).isfinite().all())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_not_stored_and_harms_none_that_is_recalled(case, broken):
    net, x, y = case
    bank = lf.CorrectionBank(net, capacity=2)
    for seed in range(2):
        moved(net, seed)
        assert bank.store()
    kept = bank.corrections.clone()
    with torch.no_grad():
        net.bias[0] = broken
    assert not bank.store() and torch.equal(bank.corrections, kept) and len(bank.mixture) == 3  # of a full bank nothing makes room
    F.cross_entropy(net(x), y).backward()  # not finite
    mixture = bank.mixture.clone()
    bank.learn()
    assert torch.equal(bank.mixture, mixture)
    assert bank.recall(lambda: F.cross_entropy(net(x), y)) >= 0
    net.zero_grad()
    F.cross_entropy(net(x), y).backward()
    bank.learn()
    assert bool(flat(net).isfinite().all()) and bool(bank.mixture.isfinite().all()) and not torch.equal(bank.mixture, mixture)


def test_constant_channels_are_no_distance_and_hide_none():
    """Each counted -1: a drift of the others was missed, and the same batch again was nearer than near."""
    x = torch.randn(200, 4, 3, 3, generator=torch.Generator().manual_seed(0)).relu()
    apart = []
    for dead in (0, 4, 12):
        change, beside = lf.DomainChange(threshold=0.0), torch.full((200, dead, 3, 3), 0.25)
        assert not change.see(torch.cat([x, beside], 1)) and not change.see(torch.cat([x, beside], 1)) and change.distance == 0
        assert change.see(torch.cat([1.5 * x + 0.5, beside], 1))
        apart.append(change.distance * (4 + dead) / 4)  # mean over all channels, as in the paper; these add nothing
    assert apart[0] > 0.5 and apart[1:] == pytest.approx(apart[:1] * 2)


def test_the_distance_is_never_negative():
    generator, change = torch.Generator().manual_seed(0), lf.DomainChange(threshold=1e9)
    for batch in range(50):
        scale = 10.0 ** torch.randint(-9, 4, (1, 6, 1), generator=generator) * torch.randint(0, 2, (1, 6, 1), generator=generator)
        change.see(torch.randn(4, 6, 5, generator=generator) * scale)
        assert change.distance > 0 or not batch


@pytest.mark.parametrize(
    "features", [torch.zeros(1, 4), torch.full((4, 4), float("nan")), torch.zeros(4), torch.tensor(1.0), torch.zeros(4, 0)]
)
def test_a_batch_that_tells_no_moments_is_refused(features):
    with pytest.raises(lf.LightningFwdError, match="several finite values per channel"):
        lf.DomainChange().see(features)


def test_other_channels_are_refused_and_not_remembered():
    change, x = lf.DomainChange(), torch.randn(20, 3)
    change.see(x)
    with pytest.raises(lf.LightningFwdError, match="4 channels after some with 3"):
        change.see(torch.randn(20, 4))
    assert not change.see(x) and change.distance == 0


@pytest.mark.parametrize(
    "settings",
    [{name: value} for name in ("threshold", "weight") for value in (float("nan"), -0.1, "a", None, True)] + [{"weight": 1.1}],
)
def test_settings_of_a_change_of_domain_are_checked(settings):
    with pytest.raises(lf.LightningFwdError, match=f"DomainChange: {next(iter(settings))}="):
        lf.DomainChange(**settings)
