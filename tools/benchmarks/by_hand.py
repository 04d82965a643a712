"""The rules written by hand for one net, 64-64-10 with ReLU, in plain torch: what ``tools/bench_fit.py`` holds the rules' steps against.

Each is the leanest LightningModule that takes the same step, as a skilled person would write it for this net and this loss alone: matrix
products in the place of autograd where the derivative is known, labels taken as they come, nothing checked. ``tests/tools/test_by_hand.py``
holds them to the weights that the rules give.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fwd.models import MLP

Batch = tuple[Tensor, Tensor]
CLASSES = 10


class Plain(LightningModule):
    """Backpropagation by Lightning alone: cross-entropy and SGD; nothing is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(64, (64,))
        self.first, self.last = self.net.fc1, self.net.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Batch) -> Tensor | None:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class LocalLoss(Plain):
    """A linear head on the hidden layer, the two cross-entropies added: no gradient passes between the layers, so one call gives both."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, CLASSES)

    def training_step(self, batch: Batch) -> Tensor:
        x, y = batch
        h = F.relu(self.first(x))
        return F.cross_entropy(self.head(h), y) + F.cross_entropy(self.last(h.detach()), y)


class _ByProducts(Plain):
    """Manual optimisation; ``step`` gives the gradients of (W1, b1, W2, b2), None of what does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError

    @torch.no_grad()
    def training_step(self, batch: Batch) -> None:
        grads = self.step(*batch)
        for parameter, grad in zip((self.first.weight, self.first.bias, self.last.weight, self.last.bias), grads, strict=True):
            parameter.grad = grad
        optimizer: Any = self.optimizers()
        optimizer.step()

    def activity(self, x: Tensor) -> Tensor:
        return F.linear(x, self.first.weight, self.first.bias).relu_()

    def error(self, h: Tensor, y: Tensor) -> Tensor:
        """``(softmax - y) / B``, the gradient of the mean cross-entropy at the logits."""
        error = F.linear(h, self.last.weight, self.last.bias).softmax(1)
        error[torch.arange(len(y)), y] -= 1
        return error.div_(len(y))


class Pepita(_ByProducts):
    """F ``(64, C)``: ``(h - h_err) x_err`` and ``e h_err``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("feedback", torch.empty(64, CLASSES).uniform_(-1, 1) * 0.05 * (6 / 64) ** 0.5)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        h = self.activity(x)
        error = self.error(h, y)
        x = torch.addmm(x, error, self.feedback.t(), alpha=len(y))
        modulated = self.activity(x)
        difference = (h - modulated).div_(len(y))
        return difference.t() @ x, difference.sum(0), error.t() @ modulated, error.sum(0)


class DirectFeedback(_ByProducts):
    """B ``(64, C)``: the hidden layer's error is ``B e``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("feedback", torch.empty(64, CLASSES).uniform_(-1, 1) / 8)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        h = self.activity(x)
        error = self.error(h, y)
        delta = (error @ self.feedback.t()).mul_(h > 0)
        return delta.t() @ x, delta.sum(0), error.t() @ h, error.sum(0)


class ForwardForward(_ByProducts):
    """Labels written over the first ten values, a wrong one for each negative sample; goodness: the mean square, threshold 1."""

    def wrong(self, y: Tensor) -> Tensor:
        return (y + torch.randint_like(y, 1, CLASSES)) % CLASSES

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        h = self.activity(x)
        error = self.error(h, y)
        both = x.repeat(2, 1)
        both[:, :CLASSES] = F.one_hot(torch.cat([y, self.wrong(y)]), CLASSES)
        z = self.activity(both)
        pull = (z.square().mean(1) - 1).sigmoid_()
        pull[: len(y)] -= 1
        delta = z.mul_(pull.mul_(2 / (64 * len(y)))[:, None])
        return delta.t() @ both, delta.sum(0), error.t() @ h, error.sum(0)


class SparseUpdate(_ByProducts):
    """The last layer alone."""

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        h = self.activity(x)
        error = self.error(h, y)
        return None, None, error.t() @ h, error.sum(0)


class ZerothOrder(_ByProducts):
    """The last layer's slope along one random direction of signs, times the direction."""

    scale = 1e-3

    def directions(self) -> tuple[Tensor, Tensor]:
        weight, bias = self.last.weight, self.last.bias
        return torch.empty_like(weight).bernoulli_().mul_(2).sub_(1), torch.empty_like(bias).bernoulli_().mul_(2).sub_(1)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor | None, ...]:
        h, (weight, bias) = self.activity(x), self.directions()
        slope = (self.error(h, y) * F.linear(h, weight, bias)).sum()  # the logits are linear in what is moved
        return None, None, weight.mul_(slope), bias.mul_(slope)


BY_HAND: dict[str, type[Plain]] = {
    "local_loss": LocalLoss,
    "pepita": Pepita,
    "direct_feedback": DirectFeedback,
    "forward_forward": ForwardForward,
    "sparse_update": SparseUpdate,
    "zeroth_order": ZerothOrder,
}
