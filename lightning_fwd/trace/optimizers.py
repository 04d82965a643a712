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

    @property
    def name(self) -> str:
        """What reports call it: its kind, and what it does beyond the plain one."""
        extras = [word for word in ("nesterov", "weight_decay", "amsgrad") if getattr(self, word, 0)]
        return ", ".join([type(self).__name__.lower(), *(word.replace("_", " ") for word in extras)])

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {}

    @abstractmethod
    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """New value of the parameter and of each of its state tensors, by name."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """``torch.optim.SGD``: ``v = momentum v + g + weight_decay w``, ``w - lr v``; by Nesterov ``w - lr (g + weight_decay w + momentum
    v)``."""

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        return {state_name("momentum", name): torch.zeros_like(parameter)} if self.momentum else {}

    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.weight_decay:
            gradient = torch.add(gradient, parameter, alpha=self.weight_decay)
        if not self.momentum:
            return {name: torch.add(parameter, gradient, alpha=-self.lr)}
        key = state_name("momentum", name)
        velocity = torch.add(gradient, state[key], alpha=self.momentum)
        direction = torch.add(gradient, velocity, alpha=self.momentum) if self.nesterov else velocity
        return {name: torch.add(parameter, direction, alpha=-self.lr), key: velocity}


@dataclass(frozen=True)
class Adam(Optimizer):
    """``torch.optim.Adam``; Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1.

    Attributes:
        weight_decay: added to the gradient, or, ``decoupled``, taken from the weight (AdamW; Loshchilov & Hutter 2019, arXiv 1711.05101).
        amsgrad: divide by the largest second moment so far, one more tensor of state (Reddi et al. 2018, arXiv 1904.09237).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    amsgrad: bool = False

    def initial_state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        whole = ("mean", "square", "largest_square") if self.amsgrad else ("mean", "square")
        zeros = {state_name(what, name): torch.zeros_like(parameter) for what in whole}
        return zeros | {state_name("step", name): torch.zeros((), device=parameter.device)}

    def step(self, name: str, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.weight_decay and self.decoupled:
            parameter = parameter * (1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            gradient = torch.add(gradient, parameter, alpha=self.weight_decay)
        keys = [state_name(what, name) for what in ("mean", "square", "step")]
        mean, square, count = (state[key] for key in keys)
        count = count + 1
        mean = torch.add(mean * self.beta1, gradient, alpha=1 - self.beta1)
        square = torch.addcmul(square * self.beta2, gradient, gradient, value=1 - self.beta2)
        new = dict(zip(keys, (mean, square, count), strict=True))
        if self.amsgrad:
            key = state_name("largest_square", name)
            square = new[key] = torch.maximum(state[key], square)
        bias1, bias2 = 1 - self.beta1**count, 1 - self.beta2**count
        denominator = square.sqrt() / bias2.sqrt() + self.eps
        return {name: parameter - mean / denominator * (self.lr / bias1), **new}


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam}


def get_optimizer(name: str | Optimizer, lr: float, momentum: float) -> Optimizer:
    """An optimizer by its name; one that is given is taken as it is.

    Raises:
        StepError: unknown name, momentum that is negative or not finite, or given to an optimizer without.
    """
    if isinstance(name, Optimizer):
        return name
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


_WITHOUT_COST = ("lr", "foreach", "fused", "capturable", "differentiable")  #: settings of torch's that change no arithmetic of a device


def of_torch(optimizer: torch.optim.Optimizer) -> tuple[Optimizer, list[str]]:
    """One of these optimizers that costs what torch's costs, and what torch's does that it does not.

    Where parameter groups differ in a setting, all are taken to have its largest value. A class that is not known is taken as plain SGD, a
    class of the user's own that extends a known one as that; both are named.
    """
    known = next((kind for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD) if isinstance(optimizer, kind)), None)
    if known is None:
        return SGD(0.01), [f"state and arithmetic of {type(optimizer).__name__}: priced as plain SGD"]
    groups, settings, left_out = optimizer.param_groups, {}, []
    for key, default in optimizer.defaults.items():
        values = [group.get(key, default) for group in groups]
        settings[key] = max(values) if isinstance(default, (int, float)) else values[0]
        if key not in _WITHOUT_COST and any(value != values[0] for value in values):
            left_out.append(f"{key} differs between parameter groups ({', '.join(map(str, values))}): priced as {settings[key]} for all")
    model: Optimizer
    modelled: tuple[str, ...]
    if issubclass(known, torch.optim.Adam):
        beta1, beta2 = map(float, settings["betas"])
        decoupled = bool(settings.get("decoupled_weight_decay", known is torch.optim.AdamW))
        model = Adam(0.01, beta1, beta2, float(settings["eps"]), float(settings["weight_decay"]), decoupled, bool(settings["amsgrad"]))
        modelled = ("betas", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay")
    else:
        model = SGD(0.01, float(settings["momentum"]), float(settings["weight_decay"]), bool(settings["nesterov"]))
        modelled = ("momentum", "weight_decay", "nesterov")
    if type(optimizer) is not known:
        left_out.append(f"what {type(optimizer).__name__} adds to {known.__name__}: priced as that")
    plain = known([torch.zeros(1, requires_grad=True)], lr=0.01).defaults
    for key, value in settings.items():  # compared with the plain optimizer, whatever the key: torch's next version may have more of them
        if key not in modelled and key not in _WITHOUT_COST and value != plain.get(key):
            left_out.append(f"{key}={value} of {type(optimizer).__name__}")
    return model, left_out
