"""One table of learning rules for the generic tests: a new rule is tested by adding a row.

Beside it the small nets, the data and the LightningModule (that knows nothing of this library) which those tests share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

import lightning_fwd as lf
from lightning_fwd.methods import LearningMethod
from lightning_fwd.models import MLP, SmallConv

CLASSES = 4


def as_pretrained(net: nn.Module) -> nn.Module:
    """Batch norms that say they have seen a batch: rules that keep statistics refuse to train a network from scratch."""
    for norm in (m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.num_batches_tracked += 1
    return net


class Residual(nn.Module):
    """Two convolutions around a shortcut, batch norm, dropout, in-place activations."""

    input_shape, num_classes = (1, 8, 8), CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, 2, 1)
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.dropout, self.head = nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(6, CLASSES)
        as_pretrained(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        h += x
        return self.head(self.dropout(self.relu(h).mean((2, 3))))


NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(16, (24, 20), CLASSES),
    "conv": lambda: as_pretrained(SmallConv(1, (6, 8), CLASSES)),
    "residual": Residual,
}


@cache
def _moments_of_conv() -> str:
    """What a network of the table takes along of its source, in a file."""
    net = NETS["conv"]()
    file = Path(tempfile.mkdtemp(prefix="lightning_fwd_")) / "moments.safetensors"
    return lf.source_moments(net, [clusters(net, 32, seed=4)], file)


@dataclass(frozen=True)
class Row:
    """A rule with settings.

    Attributes:
        nets: model kinds that it fits. lr: a rate at which it learns within a few epochs on :func:`clusters`.
        exact: eval output is the original's bit for bit (else up to rounding). falls_to: the training loss falls at least to this
            fraction in 8 epochs; None: the rule minimises no loss.
        writes: of a rule that minimises no loss, whether it gives a tensor of this name a new value.
        trains: whether a parameter of this name gets a gradient in every step. predicts_by_goodness: inference is not the model's own
            forward.
    """

    name: str
    method: Callable[[], LearningMethod]
    nets: tuple[str, ...] = ("mlp", "conv", "residual")
    lr: float = 0.05
    exact: bool = True
    falls_to: float | None = 0.9
    trains: Callable[[str], bool] = lambda name: True
    writes: Callable[[str], bool] = lambda name: "running" in name
    predicts_by_goodness: bool = False


ROWS = [
    Row("backprop", lf.Backprop),
    Row("backprop, stored norms", lambda: lf.Backprop(batch_norm="freeze"), ("residual",)),
    Row("backprop, folded norms", lambda: lf.Backprop(batch_norm="fold"), ("residual",), exact=False, trains=lambda name: False),
    Row("sparse_update: head", lf.SparseUpdate, lr=0.5, trains=lambda name: name.startswith(("classifier", "head"))),
    Row("sparse_update: biases", lambda: lf.SparseUpdate("biases"), lr=0.3, falls_to=0.99, trains=lambda name: name.endswith("bias")),
    Row("sparse_update: part", lambda: lf.SparseUpdate(2, channels=0.5), ("mlp", "conv"), trains=lambda name: False),
    Row("sparse_training", lambda: lf.SparseTraining(density=0.5, interval=3, until=12)),
    Row(
        "zeroth_order",
        lambda: lf.ZerothOrder(samples=4),
        lr=0.1,
        falls_to=0.95,
        trains=lambda name: name.startswith(("classifier", "head")),
    ),
    Row(
        "zeroth_order: ranks",
        lambda: lf.ZerothOrder(samples=6, estimator="ranks", loss="cross_entropy"),
        ("mlp",),
        trains=lambda name: name.startswith("classifier"),
    ),
    Row("forward_forward", lf.ForwardForward),
    Row(
        "forward_forward: goodness",
        lambda: lf.ForwardForward(prediction="goodness", goodness="sum"),
        ("mlp",),
        lr=0.002,
        falls_to=0.97,
        predicts_by_goodness=True,
    ),
    Row(
        "forward_forward: folded",
        lambda: lf.ForwardForward(batch_norm="fold"),
        ("conv", "residual"),
        exact=False,
        trains=lambda name: False,
    ),
    Row("forward_forward: context", lambda: lf.ForwardForward(label="context"), ("conv",)),
    Row("local_loss", lf.LocalLoss),
    Row("local_loss: 2 blocks", lambda: lf.LocalLoss(granularity=2, batch_norm="freeze"), ("conv", "residual")),
    Row("local_loss: output", lambda: lf.LocalLoss(error="output", lookahead=1, batch_norm="freeze"), ("mlp", "conv")),
    Row("local_loss: folded", lambda: lf.LocalLoss(batch_norm="fold"), ("conv", "residual"), exact=False, trains=lambda name: False),
    Row(
        "local_loss: part",
        lambda: lf.LocalLoss(train=2, channels=0.5, error="output", batch_norm="freeze"),
        ("mlp", "conv"),
        trains=lambda name: False,
    ),
    Row("pepita", lf.Pepita, lr=0.1, falls_to=0.95),
    Row("pepita: recompute", lambda: lf.Pepita(recompute=True), ("mlp", "residual")),
    Row(
        "pepita: folded",
        lambda: lf.Pepita(batch_norm="fold"),
        ("conv", "residual"),
        lr=0.1,
        falls_to=0.95,
        exact=False,
        trains=lambda name: False,
    ),
    Row("direct_feedback", lf.DirectFeedback),
    Row("statistics", lf.Statistics, ("conv", "residual"), falls_to=None, trains=lambda name: False),
    Row("alignment: norms", lambda: lf.Alignment(samples=30), ("conv", "residual"), falls_to=None, trains=lambda name: False),
    Row(
        "alignment",
        lambda: lf.Alignment(_moments_of_conv(), patches=1, samples=30),
        ("conv",),
        falls_to=None,
        trains=lambda name: False,
        writes=lambda name: "stage" in name,
    ),
]
CASES = [(row, net) for row in ROWS for net in row.nets]
CASE_IDS = [f"{row.name}-{net}" for row, net in CASES]
HARDEST = [pytest.param(row, net, marks=() if net == row.nets[-1] else pytest.mark.slow) for row, net in CASES]
# ^ for tests that train: each rule on the net with most in it; the others are slow tests


WITHOUT_GRADIENT = tuple(
    name for name, method in lf.METHODS.items() if method.updates_buffers_only
)  #: they need batch norm, and minimise no loss


def named_rows() -> dict[str, Row]:
    """One row with default settings (or nearly so) for each registered name."""
    return {name: next(row for row in ROWS if isinstance(row.method(), method)) for name, method in lf.METHODS.items()}


def clusters(net: nn.Module | None = None, count: int = 96, seed: int = 3) -> tuple[Tensor, Tensor]:
    """``CLASSES`` Gaussian clouds in the shape that ``net`` takes; easy to learn."""
    shape = net.input_shape if net is not None else (16,)
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, *shape, generator=generator)
    y = torch.arange(count) % CLASSES
    return centres[y] + 0.4 * torch.randn(count, *shape, generator=generator), y


class Shuffled(Sampler):
    """A permutation per epoch; Lightning tells it the epoch, also after a resume."""

    def __init__(self, count: int):
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def loader(net: nn.Module | None = None, batch_size: int = 16, count: int = 96) -> DataLoader:
    x, y = clusters(net, count)
    return DataLoader(TensorDataset(x, y), batch_size, sampler=Shuffled(count))


class Task(L.LightningModule):
    """An ordinary LightningModule."""

    def __init__(self, network: nn.Module, lr: float = 0.05, momentum: float = 0.9):
        super().__init__()
        self.network, self.lr, self.momentum, self.losses = network, lr, momentum, []

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, on_epoch=True, on_step=False)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x).float(), y))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), self.lr, self.momentum)


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def trainer(strategy: Any, **settings: Any) -> L.Trainer:
    """A Trainer that prints and writes nothing unless told."""
    if isinstance(strategy, LearningMethod):
        strategy = lf.ForwardOnlyStrategy(strategy)
    return L.Trainer(strategy=strategy, **{**QUIET, "max_epochs": 1, "enable_checkpointing": False, **settings})


def one_step(model: lf.RewrittenModel, x: Tensor, y: Tensor, loss: Callable = F.cross_entropy) -> Tensor:
    """Gradients of one step of the rule, into ``p.grad``."""
    model.train()
    with model.step(y):
        value = loss(model(x), y)
    model.backward(value)
    return value.detach()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
