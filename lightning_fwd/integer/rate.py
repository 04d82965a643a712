"""Rate and momentum of the user's SGD as the integer inputs of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from ..errors import StepError


class Rate:
    """Where a step takes its rate from: an SGD optimizer, read at every step so that schedules work, or numbers given by hand.

    Attributes:
        momentum: 0 for none; it decides the form of the step.
    """

    def __init__(self, lr: float = 0.01, momentum: float = 0.0):
        self._lr, self.momentum, self.optimizer = lr, momentum, None
        self._velocities: dict[Tensor, Tensor] = {}

    def follow(self, optimizer: Optimizer) -> None:
        """Read an optimizer from now on.

        Raises:
            StepError: it is no plain SGD, or its groups have different settings.
        """
        if type(optimizer) is not SGD:
            raise StepError(
                f"{type(optimizer).__name__} cannot drive a step in integers",
                "the rate multiplies the error before the product with the activations, so what is applied is SGD, with momentum if asked",
                "use torch.optim.SGD, or train in float",
            )
        odd = [k for g in optimizer.param_groups for k in ("weight_decay", "nesterov", "dampening", "maximize") if g.get(k)]
        if odd:
            raise StepError(f"SGD with {odd[0]}", "the integer step has rate and momentum", "leave it out, or train in float")
        self.optimizer = optimizer
        self.reread()

    def reread(self) -> None:
        """What a schedule may have changed since.

        Raises:
            StepError: groups have come apart.
        """
        if self.optimizer is None:
            return
        groups = self.optimizer.param_groups
        if len({(g["lr"], g["momentum"]) for g in groups}) > 1:
            raise StepError("parameter groups with different rates or momenta", "the integer step takes one", "give all groups the same")
        self.momentum = groups[0]["momentum"]

    def require_held(self, names: Mapping[str, Tensor]) -> None:
        """Raises:
        StepError: the step trains a parameter that the optimizer does not hold.
        """
        if self.optimizer is None:
            return
        held = {id(p) for g in self.optimizer.param_groups for p in g["params"]}
        if lacking := [name for name, parameter in names.items() if id(parameter) not in held]:
            raise StepError(
                f"the optimizer does not hold {', '.join(lacking[:4])}, which the step in integers trains",
                "its update is part of the step",
                "give it to the optimizer, or freeze it before (requires_grad_(False))",
            )

    @property
    def lr(self) -> float:
        return self._lr if self.optimizer is None else float(self.optimizer.param_groups[0]["lr"])

    def integers(self) -> Tensor:
        """``(3,)`` int32: multiplier of 15 bits and exponent of the rate, momentum in Q15. A rate of 0 is multiplier 0.

        Raises:
            StepError: a rate below 2**-40 or from 2**20 on, or not finite.
        """
        lr = self.lr
        if lr != 0 and not 2.0**-40 <= lr < 2.0**20:
            raise StepError(
                f"a rate of {lr}", "its exponent must stay within what errors and weights leave of 8 bits", "use 0, or 1e-12 to 1e6"
            )
        mult, exponent = rate_integers(lr)
        return torch.tensor([mult, exponent, round(self.momentum * 32768)], dtype=torch.int32)

    def velocity(self, parameter: Tensor) -> Tensor | None:
        """The float that stands for a parameter's velocity: what its next step takes off, times the momentum. torch's SGD keeps it without
        the rate."""
        if self.optimizer is None:
            return self._velocities.get(parameter)
        return self.optimizer.state[parameter].get("momentum_buffer")

    def keep(self, parameter: Tensor, velocity: Tensor) -> None:
        if self.optimizer is None:
            self._velocities[parameter] = velocity
        else:
            self.optimizer.state[parameter]["momentum_buffer"] = velocity


def rate_integers(lr: float) -> tuple[int, int]:
    """``lr = mult * 2**-exponent`` with ``2**14 <= mult < 2**15``; ``(0, 0)`` of 0."""
    if lr == 0:
        return 0, 0
    fraction, exponent = math.frexp(lr)
    mult = round(math.ldexp(fraction, 15))
    return (mult, 15 - exponent) if mult < 1 << 15 else (1 << 14, 14 - exponent)
