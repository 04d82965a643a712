"""A rule's seed: what one seed draws in some step, no other seed draws in another; seed 0 draws what the bare counter says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import random_bits
from lightning_fwd.graph.step import StepRecord
from lightning_fwd.methods.scheme import rank_channels

SEEDS, STEPS = range(4), 6


def negatives(seed, step):
    model = lf.rewrite(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 9)), lf.ForwardForward(seed=seed), torch.zeros(2, 64))
    record = StepRecord(torch.zeros(40, 64), torch.zeros(40, dtype=torch.int64), 1.0, torch.tensor(step))
    return model.method._contrasted(model, record, torch.zeros(40, 9))[1][40:]


def dropout_mask(seed, step):
    model = lf.rewrite(nn.Sequential(nn.Linear(2, 64), nn.Dropout(), nn.Linear(64, 2)), lf.Pepita(seed=seed), torch.zeros(2, 2))
    model.inserted.counter.fill_(step)
    return model.inserted.shared_dropout0.train()(torch.ones(1, 64))


def perturbation(seed, step):
    """What the second inference of zeroth order adds to the head's weights."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 40, bias=False))
    model = lf.rewrite(net, lf.ZerothOrder(seed=seed, scale=1.0), torch.zeros(2, 2))
    seen = []
    model.inserted.after_entry_moved = lambda _model, entry, drawn: (seen.append(drawn), (torch.zeros(2, 40),))[1]
    model.inserted.counter.fill_(step)
    model.train()
    with model.step():
        loss = F.cross_entropy(model(torch.zeros(2, 2)), torch.tensor([0, 1]))
    model.backward(loss)
    return random_bits(seen[0], (40,)) & 1


def ranks(seed, step):
    """Of layer ``step``, by the random ranking."""
    net = nn.Sequential(*(nn.Linear(30, 30) for _ in range(STEPS)))
    return rank_channels(net, torch.zeros(2, 30), [str(i) for i in range(STEPS)], "random", seed * 7919)[str(step)]


@pytest.mark.parametrize("draw", [negatives, dropout_mask, perturbation, ranks])
def test_no_two_seeds_draw_alike(draw):
    drawn = {(seed, step): draw(seed, step) for seed in SEEDS for step in range(STEPS)}
    pairs = [(a, b) for a in drawn for b in drawn if a < b]
    assert [pair for pair in pairs if torch.equal(drawn[pair[0]], drawn[pair[1]])] == []


def test_regrowth_and_mirroring_of_two_seeds_differ_at_every_step():
    def after(method, steps):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
        model = lf.rewrite(net, method, torch.zeros(2, 12)).train()
        model.inserted.counter.fill_(steps)
        with model.step():
            loss = F.cross_entropy(model(torch.ones(4, 12)), torch.tensor([0, 1, 2, 0]))
        model.backward(loss)
        holder = model.inserted
        return holder.feedback.matrix if hasattr(holder, "feedback") else holder.weight_masks["0"].mask

    for make in (
        lambda s: lf.SparseTraining(0.3, "random", interval=1, seed=s),
        lambda s: lf.Pepita(mirror_interval=1, mirror_share=1.0, seed=s),
    ):
        drawn = {(seed, step): after(make(seed), step) for seed in SEEDS for step in range(1, STEPS)}
        assert all(not torch.equal(drawn[a], drawn[b]) for a in drawn for b in drawn if a < b)
