"""Forward-Forward with the label as a context, by records: the update is the gradient of its loss, and the contrast grows."""

import numpy as np
import pytest
import torch
from lightning_fwd_export.npu.learn import ContextForwardForward
from torch.nn import functional as F

BATCH = 16


def samples(npu):
    x = torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return npu.store(x), np.arange(BATCH) % 5


def test_the_update_is_the_gradient_of_each_layers_own_loss(learner):
    npu, _ = learner
    stored, labels = samples(npu)
    rule, head = ContextForwardForward(npu, lr=0.5, steps=1, scale=0.3, sharpness=2.0), npu.head(0.01, 0.9, BATCH, 1)
    twin = ContextForwardForward(npu, lr=0.5, steps=1, scale=0.3, sharpness=2.0)  # draws the same contexts and wrong labels
    wrong = np.array([(label + 1 + twin._random.draw() % 4) % 5 for label in labels])
    before = {layer: (rule.context[layer].copy(), rule.norms[layer].shift.copy(), rule.norms[layer].scale) for layer in rule.norms}
    taps = [rule._under_labels(stored, shown) for shown in (labels, wrong)]
    assert (wrong != labels).all() and all(np.abs(context.mean(0)).max() < 1e-6 for context, *_ in before.values())
    rule.step(head, stored, labels)
    for layer, (context, shift, scale) in before.items():
        moved, by = torch.zeros(context.shape, requires_grad=True), torch.zeros(shift.shape, requires_grad=True)
        goodness = [
            (torch.from_numpy(tap[layer]) + (moved[shown] + by) * torch.from_numpy(scale)).square().mean(1)
            for tap, shown in zip(taps, (labels, wrong), strict=True)
        ]
        F.softplus(-2.0 * (goodness[0] - goodness[1])).mean().backward()
        assert np.allclose(rule.context[layer] - context, -0.5 * moved.grad.numpy(), atol=1e-6)
        assert np.allclose(rule.norms[layer].shift - shift, -0.5 * by.grad.numpy() * scale, atol=1e-6)


def test_the_right_label_wins_after_some_steps(learner):
    npu, _ = learner
    stored, labels = samples(npu)
    rule, head = ContextForwardForward(npu, lr=0.1, steps=30, scale=0.1, sharpness=4.0), npu.head(0.01, 0.9, BATCH, 30)

    def margin():
        found = rule.goodness(stored)
        right = found[np.arange(BATCH), labels]
        return float((right - (found.sum(1) - right) / 4).mean())

    first, plain = margin(), bytes(npu.table)
    assert bytes(npu.table) == plain  # what is asked of other labels leaves the records as they were
    for _ in range(30):
        rule.step(head, stored, labels)
    assert margin() > first + 0.005
    assert sorted(rule.order) == list(range(3 * BATCH))


def test_a_seed_of_zero_is_refused(learner):
    with pytest.raises(ValueError, match="seed of 0"):
        ContextForwardForward(learner[0], 0.1, 1, seed=0)
    for refused in ({"lr": float("nan")}, {"lr": 0.1, "scale": 0.0}, {"lr": 0.1, "sharpness": float("inf")}):
        with pytest.raises(ValueError, match="above 0"):
            ContextForwardForward(learner[0], steps=1, **refused)
