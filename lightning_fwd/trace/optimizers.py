"""Optimizers as they run on a device: one parameter at a time, as soon as its gradient is known, inside the step graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StepError

_PREFIX = "optimizer."


def state_name(what: str, parameter: str) -> str:
    """Name of a state tensor: ``optimizer.<what>.<parameter>``."""
    return f"{_PREFIX}{what}.{parameter}"


def is_optimizer_state(name: str) -> bool:
    """Whether a step's state of this name is an optimizer's."""
    return name.startswith(_PREFIX)


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule from a gradient to the new parameter. State lives in tensors named by :func:`state_name` that start at zero."""

    lr: float

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {}

    @abstractmethod
    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """New value of the parameter and of each of its state tensors, by name."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """``torch.optim.SGD``: ``w - lr v``, ``v = momentum v + g``."""

    momentum: float = 0.0

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {state_name("momentum", name): torch.zeros_like(parameter)} if self.momentum else {}

    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.momentum:
            return {name: torch.add(parameter, gradient, alpha=-self.lr)}
        key = state_name("momentum", name)
        velocity = torch.add(gradient, state[key], alpha=self.momentum)
        return {name: torch.add(parameter, velocity, alpha=-self.lr), key: velocity}


@dataclass(frozen=True)
class Adam(Optimizer):
    """``torch.optim.Adam`` with its default betas; Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {
            state_name("mean", name): torch.zeros_like(parameter),
            state_name("square", name): torch.zeros_like(parameter),
            state_name("step", name): torch.zeros((), device=parameter.device),
        }

    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        keys = [state_name(what, name) for what in ("mean", "square", "step")]
        mean, square, count = (state[key] for key in keys)
        count = count + 1
        mean = torch.add(mean * self.beta1, gradient, alpha=1 - self.beta1)
        square = torch.addcmul(square * self.beta2, gradient, gradient, value=1 - self.beta2)
        bias1, bias2 = 1 - self.beta1**count, 1 - self.beta2**count
        denominator = square.sqrt() / bias2.sqrt() + self.eps
        return {
            name: parameter - mean / denominator * (self.lr / bias1),
            **dict(zip(keys, (mean, square, count), strict=True)),
        }


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam}


def get_optimizer(name: str, lr: float, momentum: float) -> Optimizer:
    """An optimizer by its name.

    Raises:
        StepError: unknown name, momentum that is negative or not finite, or given to an optimizer without.
    """
    if not 0 <= momentum < float("inf"):
        raise StepError(
            f"momentum={momentum}", "it is the share of the last step that is taken again", "use 0 (none) or a share such as 0.9"
        )
    if name not in OPTIMIZERS:
        raise StepError(f"unknown optimizer {name!r}", "", f"known optimizers: {', '.join(OPTIMIZERS)}")
    if name == "sgd":
        return SGD(lr, momentum)
    if momentum:
        raise StepError(f"momentum={momentum} with {name}", "only sgd takes it", "leave it out")
    return OPTIMIZERS[name](lr)
