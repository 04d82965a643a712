"""Forward-Forward in integers: goodness, the norm over a sample, labels in the input, against the float rule."""

import copy

import pytest
import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import wrong_labels
from lightning_fwd.graph.whole import whole_operations
from lightning_fwd.integer import IntegerRule
from lightning_fwd.integer.arithmetic import as_multiplier
from lightning_fwd.integer.goodness import (
    int_add_sums,
    int_contrast_error,
    int_label_overlay,
    int_label_rows,
    int_sample_norm,
    int_wrong_labels,
)
from lightning_fwd.integer.softmax import in_powers
from lightning_fwd.methods.forward_forward.whole import contrast_error, label_overlay, sample_norm

H, F6 = torch.randint(-127, 128, (8, 40), generator=torch.Generator().manual_seed(1)).to(torch.int8), torch.tensor([6], dtype=torch.int8)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("theta", "per_square", "sharpness"), [(1.0, 1 / 40, 1.0), (30.0, 1.0, 0.2), (0.0, 1 / 40, 3.0)])
def test_the_error_of_a_contrast(symmetric, theta, per_square, sharpness):
    scales = (*as_multiplier(theta / per_square), *in_powers(sharpness * per_square))
    got = int_contrast_error(H, F6, *scales, symmetric).double() * 2.0**-21
    wanted = contrast_error(H.double() / 64, theta, per_square, sharpness, symmetric)
    assert (got - wanted).abs().max() < 0.015 * (H.double() / 64).abs().max()


def test_a_sample_divided_by_its_length():
    h = torch.cat([H, torch.zeros(1, 40, dtype=torch.int8), torch.eye(1, 40, dtype=torch.int8)])
    got = int_sample_norm(h).double() * 2.0**-20 * 40**0.5
    wanted = sample_norm(h.double())
    assert (got - wanted).abs().max() < 2e-4 and not got[8].any()


def test_labels_in_the_input():
    labels, x = torch.tensor([3, 0, 9, 2, 1, 3, 3, 7]), H[:4]
    counter = torch.tensor(11)
    assert torch.equal(int_wrong_labels(labels, counter, 2, 5, 10), wrong_labels(labels, 10, counter * 2 + 5))
    hot = nn.functional.one_hot(labels, 10).double()
    got = int_label_overlay(x, F6, labels, 10, *as_multiplier(1.0)).double() / 64
    assert torch.equal(got, label_overlay(x.double() / 64, hot, 1.0))
    neutral = int_label_overlay(x, F6, None, 10, *as_multiplier(0.1)).double() / 64
    assert torch.equal(neutral[:, 10:], x[:, 10:].double() / 64) and torch.equal(neutral[:, :10], torch.full((4, 10), 6 / 64.0).double())
    rows, exponents = H[:, :12], torch.tensor([3, 3, 4, 3, 3, 5, 3, 3], dtype=torch.int8)
    values = rows.double() * torch.exp2(3 - exponents.double())[:, None]
    assert (int_label_rows(rows, exponents, labels[:2], 2).double() - values[labels[:2]]).abs().max() <= 0.5
    assert (int_label_rows(rows, exponents, None, 3).double() - values.sum(0)).abs().max() <= 1.0


def test_sums_meet_at_the_coarser_scale():
    a, b = torch.tensor([1000, -5], dtype=torch.int32), torch.tensor([3, 7], dtype=torch.int32)
    four, six = torch.tensor([4], dtype=torch.int8), torch.tensor([6], dtype=torch.int8)
    assert int_add_sums(a, six, b, four).tolist() == [253, 6]


@pytest.mark.parametrize("loss", ["threshold", "symmetric"])
@pytest.mark.parametrize("goodness", ["mean", "sum"])
def test_whole_operations_are_the_float_rule(loss, goodness):
    """The gradients inside :func:`whole_operations` are those outside."""
    torch.manual_seed(0)
    x, y = torch.rand(6, 30), torch.tensor([0, 1, 2, 3, 0, 1])
    net = nn.Sequential(nn.Linear(30, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    found = []
    for whole in (False, True):
        model = lf.rewrite(copy.deepcopy(net), lf.ForwardForward(loss=loss, goodness=goodness, sharpness=0.5), x)
        model.train()
        with model.step(y):
            error = nn.functional.cross_entropy(model(x), y)
            if whole:
                with whole_operations():
                    model.backward(error)
            else:
                model.backward(error)
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and all(torch.allclose(found[0][k], found[1][k], atol=1e-6) for k in found[0])


def test_a_row_that_a_label_chooses_cannot_learn():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    x = torch.rand(4, 1, 8, 8)
    model = lf.rewrite(net, IntegerRule(lf.ForwardForward(label="planes"), lf.Integer()), x)
    with pytest.raises(lf.errors.StepError, match="label='pattern'"):
        model.method.calibrate(model, x, torch.tensor([0, 1, 2, 3]))
