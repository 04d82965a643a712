"""What a program is held against: the rule trained by PyTorch in float32, and in float64, which says what of a difference is rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_fwd.errors import StepError
from lightning_fwd.graph.rewritten import RewrittenModel

from .errors import ExportError

Loss = Callable[[Tensor, Tensor], Tensor]
ROUNDING = 8.0  #: how much further from float64 than PyTorch's float32 a program may be: it adds up in another order
CHAOS = 1e-2  #: where PyTorch itself is so far from float64, relative to the largest value, nothing can be compared any more


class Trainer:
    """A rewritten model in training, by ``torch.optim.SGD``."""

    def __init__(self, model: RewrittenModel, lr: float, momentum: float, loss: Loss):
        self.model, self.loss = model.train(), loss
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum) if parameters else None

    def step(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """One step; ``(logits, loss)`` before it.

        Raises:
            StepError: it diverged.
        """
        if self._optimizer is not None:
            self._optimizer.zero_grad()
        with self.model.step(target):
            logits = self.model(x)
            value = self.loss(logits, target)
            self.model.backward(value)
        if self._optimizer is not None:
            self._optimizer.step()
        return logits.detach(), value.detach()


class InDouble:
    """The same training in float64, as long as that can be done: a rule that computes in float32 by itself has none."""

    def __init__(self, model: RewrittenModel, lr: float, momentum: float, loss: Loss):
        self._trainer: Trainer | None = None
        try:
            self._trainer = Trainer(copy.deepcopy(model).double(), lr, momentum, loss)
        except (RuntimeError, TypeError):
            pass

    def step(self, x: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As of :class:`Trainer`; nothing where there is none."""
        if self._trainer is None:
            return None, None
        try:
            return self._trainer.step(x.double(), target.double() if target.is_floating_point() else target)
        except (RuntimeError, TypeError, StepError):
            self._trainer = None
            return None, None

    def predict(self, x: Tensor) -> Tensor | None:
        """A prediction with the present weights."""
        return None if self._trainer is None else predict(self._trainer.model, x.double())

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return {} if self._trainer is None else named_tensors(self._trainer.model)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """A prediction; the model is in eval mode then."""
    return model.eval()(x)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def is_chaotic(expected: Tensor, exact: Tensor | None) -> bool:
    """Whether rounding has grown so far that PyTorch's own run is no reference any more."""
    return exact is not None and not _distance(expected, exact) <= CHAOS * _scale(exact)


def compare(worst: float, got: Tensor, expected: Tensor, what: str, tolerance: float, exact: Tensor | None = None) -> float:
    """The larger of ``worst`` and the largest difference between a program's result and PyTorch's.

    Args:
        tolerance: relative to the largest value where that is above 1.
        exact: the result in float64. A difference beyond the tolerance is rounding that grew if the program is hardly further from it than
            PyTorch is.

    Raises:
        ExportError: the difference is none of both.
    """
    difference, allowed = _distance(got, expected), tolerance * _scale(expected)
    if difference <= allowed:
        return max(worst, difference)
    if exact is not None and _distance(got, exact) <= ROUNDING * _distance(expected, exact):
        return max(worst, difference)
    raise ExportError(
        f"{what} differ from PyTorch by {difference:.3g} (allowed {allowed:.3g}): the program would not learn what the model "
        "learns. Nothing is written; a lower learning rate keeps rounding from growing, otherwise this is a defect worth reporting"
    )


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max()) if a.numel() else 0.0


def _scale(x: Tensor) -> float:
    return max(1.0, float(x.detach().abs().max())) if x.numel() else 1.0
