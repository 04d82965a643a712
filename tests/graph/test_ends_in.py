"""What a loss depends on, read off its graph: never yes where autograd finds something else."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph.ends_in import ends_in


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


LOSSES = {
    "cross-entropy": (lambda z, w: F.cross_entropy(z.clone(), torch.arange(4)), True),
    "a function of the user's": (lambda z, w: Double.apply(z).sum(), True),
    "a constant beside it": (lambda z, w: z.sum() + torch.ones(()), True),
    "a penalty": (lambda z, w: z.sum() + w.square().sum(), False),
    "a penalty through a function": (lambda z, w: z.sum() + Double.apply(w).sum(), False),
    "a weight alone": (lambda z, w: w.sum(), False),
    "a long graph": (lambda z, w: sum(z.sum() for _ in range(40)), False),
}


@pytest.mark.parametrize("loss,only", LOSSES.values(), ids=LOSSES)
def test_ends_in_the_logits(loss, only):
    logits, weight = torch.randn(4, 5, requires_grad=True), nn.Parameter(torch.randn(3))
    assert ends_in(loss(logits, weight), [logits]) is only
    assert not ends_in(loss(logits, weight), [])


@pytest.mark.parametrize("terms", [1, 60])
def test_a_penalty_is_refused_however_long_the_graph(terms):
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(4, 6), torch.arange(4) % 3
    model = lf.rewrite(net, "backprop", x).train()
    for beside in (False, True):
        with model.step(y):
            z = model(x)
            loss = sum(F.cross_entropy(z, y) for _ in range(terms))
        if beside:
            with pytest.raises(lf.StepError, match="otherwise than through the logits"):
                model.backward(loss + net[0].weight.square().sum())
        else:
            model.backward(loss)
            assert net[0].weight.grad is not None
