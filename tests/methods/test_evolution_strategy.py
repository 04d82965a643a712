"""An evolution strategy over weights: ranks of losses in place of slopes, and losses of the rule's own by their value alone."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.errors import StepError
from lightning_fwd.graph.weight_directions import direction
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.rate import Rate
from lightning_fwd.methods.zeroth_order.fitness import LOSSES, ranks

EVERY = ["0", "2"]


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 6, generator=generator, dtype=torch.float64), torch.arange(7) % 3


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def gradients_of(net, method, x, y, loss=F.cross_entropy, loss_scale=1.0):
    model = lf.rewrite(copy.deepcopy(net), method, x).train()
    with model.step(y, loss_scale):
        value = loss(model(x), y)
    model.backward(value)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model


def by_hand(net, model, method, losses_of):
    """``mean_i (rank_i - rank_0) / k * z_i``, ranks by sorting; or the mean of slopes."""
    with torch.no_grad():
        names, weights = model.inserted.places, dict(net.named_parameters())
        seeds = [torch.tensor(1024 * i) for i in range(method.samples)]  # of the first step
        zs = [{n: direction(seed, place, weights[n]) for n, place in names.items()} for seed in seeds]
        moved = [{n: w + method.scale * z[n] if n in z else w for n, w in weights.items()} for z in zs]
        losses = torch.stack([losses_of(torch.func.functional_call(net, w, (batch()[0],))) for w in (weights, *moved)])
        if method.estimator == "slope":
            counts = (losses[1:] - losses[0]) / method.scale
        else:
            places = torch.stack([(losses < own).sum() + ((losses == own).sum() - 1) / 2 for own in losses])
            counts = (places[1:] - places[0]) / method.samples
        return {n: sum(c * z[n] for c, z in zip(counts, zs, strict=True)) / method.samples for n in names}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("estimator", "samples"), [("ranks", 1), ("ranks", 6), ("slope", 3)])
def test_the_update_is_the_formula_s_by_the_values_of_losses_alone(estimator, samples, loss):
    (x, y), net = batch(), tiny()
    method = lf.ZerothOrder(EVERY, scale=0.7, samples=samples, estimator=estimator, loss=loss)
    got, model = gradients_of(net, method, x, y, lambda logits, y: 0.0 * logits.sum())  # a loss that says nothing
    wrong = lambda logits: (logits.argmax(1) != y).double().mean()  # noqa: E731
    unsure = lambda logits: torch.distributions.Categorical(logits=logits).entropy().mean()  # noqa: E731
    losses_of = {"cross_entropy": lambda logits: F.cross_entropy(logits, y), "error_rate": wrong, "entropy": unsure}[loss]
    wanted = by_hand(net, model, method, losses_of)
    assert got.keys() == wanted.keys() and (any(g.any() for g in wanted.values()) or (samples, loss) == (1, "error_rate"))
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient)


def test_the_user_s_loss_is_ranked_in_first_order():
    """Small displacements: the same order as of the loss itself, at any factor on it."""
    (x, y), net = batch(), tiny()
    method = lf.ZerothOrder(EVERY, scale=1e-5, samples=6, estimator="ranks")
    got, model = gradients_of(net, method, x, y)
    wanted = by_hand(net, model, method, lambda logits: F.cross_entropy(logits, y))
    scaled, _ = gradients_of(net, method, x, y, lambda logits, y: 1e3 * F.cross_entropy(logits, y))
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient)
        assert torch.equal(scaled[name], got[name])


def test_ranks_know_the_order_only_and_a_wild_loss_is_the_worst_and_no_more():
    changes = torch.tensor([0.3, -0.1, 0.0, 2.0, -0.7, 0.3])
    got = ranks(changes)
    assert got.tolist() == pytest.approx([place / 6 for place in (2.0, -1.5, 0.0, 3.5, -2.5, 2.0)])
    for rising in (torch.sinh, lambda c: 100 * c, lambda c: torch.where(c > 1, math.inf, c**3)):
        assert torch.equal(ranks(rising(changes)), got)
    assert ranks(torch.tensor([-1e-9])).tolist() == [-1.0] and ranks(torch.zeros(4)).tolist() == [0.0] * 4


def test_many_directions_point_along_the_gradient():
    (x, y), net = batch(), tiny()
    got, _ = gradients_of(net, lf.ZerothOrder(samples=1000, scale=1e-4, estimator="ranks", loss="cross_entropy"), x, y)
    F.cross_entropy(net(x), y).backward()
    flat = torch.cat([got[n].flatten() for n in ("2.weight", "2.bias")])
    true = torch.cat([p.grad.flatten() for p in net[2].parameters()])
    assert F.cosine_similarity(flat, true, dim=0) > 0.95  # of 27 values: sqrt(1 - 27 / 1000) by slopes
    assert flat.abs().max() <= 1


def test_of_accumulated_batches_each_counts_its_share():
    (x, y), net = batch(), tiny()
    for estimator in ("ranks", "slope"):
        method = lf.ZerothOrder(samples=3, estimator=estimator, loss="entropy")
        whole, half = (gradients_of(net, method, x, y, loss_scale=s)[0]["2.weight"] for s in (1.0, 0.5))
        torch.testing.assert_close(half, 0.5 * whole)


def test_labels_are_asked_for_where_the_loss_has_them():
    (x, _), net = batch(), tiny()
    for loss, needs in (("user", False), ("entropy", False), ("cross_entropy", True), ("error_rate", True)):
        model = lf.rewrite(copy.deepcopy(net), lf.ZerothOrder(loss=loss), x)
        assert model.method.needs_target is needs
        if needs:
            with pytest.raises(StepError, match="needs the labels"), model.step():
                model.train()(x)


def test_ranks_cost_what_slopes_do():
    net, x, y = nn.Sequential(nn.Linear(60, 80), nn.ReLU(), nn.Linear(80, 10)), torch.rand(4, 60), torch.tensor([0, 1, 2, 0])
    slope, order = (step_cost(net, (x, y), method=lf.ZerothOrder(samples=8, estimator=e)) for e in ("slope", "ranks"))
    assert order.total_macs == slope.total_macs and slope.total_macs == 4 * (60 * 80 + 9 * 80 * 10)
    assert abs(order.peak_ram_bytes - slope.peak_ram_bytes) < 1000  # 9 losses by one another
    assert order.elementwise_by_phase["error"] > slope.elementwise_by_phase["error"]


@pytest.mark.parametrize("settings", [{"estimator": "ranks", "samples": 2}, {"loss": "entropy"}], ids=str)
def test_integers_refuse_it_by_name(settings):
    x, y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    model = lf.rewrite(nn.Linear(6, 3), IntegerRule(lf.ZerothOrder(**settings), lf.Integer()), x)
    model.method.rate = Rate(0.1, 0.0)
    with pytest.raises(StepError, match="cannot be lowered to integers"):
        model.method.calibrate(model, x, y)
