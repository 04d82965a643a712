"""What a sparse update wins back: a short training on source data under simulated drift, accuracy on held-out data under the same."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import StepError
from ..methods import LearningMethod, Statistics, rewrite


def adapt(
    net: nn.Module,
    method: LearningMethod,
    x: Tensor,
    y: Tensor,
    lr: float,
    epochs: int,
    batch_size: int = 16,
    momentum: float = 0.9,
    seed: int = 0,
) -> nn.Module:
    """A copy of ``net``, trained by SGD without Lightning around it: a search runs hundreds of these for a second each.

    The rate falls to zero along a cosine, as the recipes' does: at a constant one, large weight updates still swing where the training
    ends, and every weight would seem to do harm.

    Raises:
        StepError: it diverged.
    """
    model = rewrite(copy.deepcopy(net), method, x[:2])
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum) if parameters else None
    order, steps = torch.Generator().manual_seed(seed), epochs * math.ceil(len(x) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if optimizer is not None and steps else None
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(batch_size):
            with model.step(y[batch]):
                loss = F.cross_entropy(model(x[batch]), y[batch])
            model.backward(loss)
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    return model.undo()


def with_statistics(net: nn.Module, x: Tensor, batch_size: int = 16) -> nn.Module:
    """A copy of ``net`` with its batch-norm statistics recomputed on ``x``; without batch norm, a plain copy."""
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        return copy.deepcopy(net)
    labels = torch.zeros(len(x), dtype=torch.int64)
    return adapt(net, Statistics(), x, labels, lr=0.0, epochs=1, batch_size=batch_size)


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, batch_size: int = 250) -> float:
    """Percent of samples classified right."""
    net.eval()
    right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True))
    return 100.0 * right / len(y)


def accuracy_after(
    net: nn.Module,
    method: LearningMethod | None,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    **training,
) -> float:
    """Accuracy of ``net`` on held-out data after training by ``method`` (None: as it is); 0 where it diverged."""
    try:
        result = accuracy(net if method is None else adapt(net, method, *train, **training), *held_out)
    except StepError:
        return 0.0
    return result
