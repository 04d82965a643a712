"""Corrections of earlier domains, kept to be used again when a drift returns.

The domain knowledge of ZOA: Deng et al., "Test-time model adaptation for quantized neural networks", ACM MM 2025 (arXiv 2508.02180), in our
own words. There it stands beside SPSA over normalisation parameters; here beside whatever rule trains them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cost import CostReport
from ..errors import LightningFwdError
from ..graph.constants import is_inserted

_LARGEST = 10.0  #: of the mixture's weights, before the softmax


class CorrectionBank:
    """What learns in a network, as its values at home, a mixture of stored corrections, and a new one.

    ``w = w_0 + sum_i softmax(m)_i c_i + e``, with ``c_0 = 0``: the network as it was. The rule's own step moves e, :meth:`learn` moves m by
    the same gradient. When the domain changes, :meth:`store` keeps ``w - w_0`` as one more c; w stays as it is. :meth:`recall` looks which
    correction fits the domain at hand. e is never written down: it is what is left of w.

    Args:
        model: what trains, rewritten or not; all its own parameters with ``requires_grad`` belong to the bank, as they are now.
        capacity: corrections stored at most, beside ``c_0``. In a full bank the older of the two most similar (by their cosine) makes room.
        rate: of m's steps, all of one size (AdamW without memory, as there). 0: :meth:`learn` does nothing.

    Attributes:
        corrections: ``(1 + stored, n)``, the first row 0. mixture: m ``(1 + stored,)``.

    Raises:
        LightningFwdError: settings out of their range, nothing in the model learns, or its values are not finite.

    Example:
        >>> bank = lf.CorrectionBank(model)
        >>> for x, y in stream:
        >>>     if change.see(features(x)):
        >>>         bank.store()
        >>>     with model.step(y):
        >>>         loss = F.cross_entropy(model(x), y)
        >>>     model.backward(loss)
        >>>     bank.learn()
        >>>     optimizer.step()
    """

    def __init__(self, model: nn.Module, capacity: int = 4, rate: float = 0.3):
        if not (_is_number(capacity, Integral) and capacity >= 1 and _is_number(rate, Real) and 0 <= rate < math.inf):
            raise LightningFwdError(f"CorrectionBank(capacity={capacity!r}, rate={rate!r})", "", "give at least one place, and a rate >= 0")
        self._parameters = [p for name, p in model.named_parameters() if p.requires_grad and not is_inserted(name)]
        if not self._parameters:
            raise LightningFwdError(
                f"nothing in {type(model).__name__} learns", "there would be nothing to correct", "rewrite it for a rule first"
            )
        self.capacity, self.rate = capacity, rate
        self._home = self._now()
        if not bool(self._home.isfinite().all()):
            raise LightningFwdError(
                f"what learns in {type(model).__name__} is not all finite", "corrections are differences to it", "load its weights anew"
            )
        self.corrections = torch.zeros_like(self._home)[None]
        self.mixture = self._home.new_zeros(1)

    @torch.no_grad()
    def store(self) -> bool:
        """Keep the present correction: the domain changes, or has been learned. The network stays as it is.

        Returns:
            whether it was kept. What a network that diverged differs by is not finite, and would be so in every mixture from then on: it
            is left out, and nothing makes room for it. :meth:`recall` takes such a network back to one that works.
        """
        correction = self._now() - self._home
        if not bool(correction.isfinite().all()):
            return False
        if len(self.corrections) > self.capacity:
            gone = self._redundant()
            self.corrections, self.mixture = (torch.cat([t[:gone], t[gone + 1 :]]) for t in (self.corrections, self.mixture))
        self.corrections = torch.cat([self.corrections, correction[None]])
        self.mixture = torch.cat([self.mixture, self.mixture.amax(0, keepdim=True)])
        return True

    def _redundant(self) -> int:
        stored = F.normalize(self.corrections[1:], dim=1)
        alike = (stored @ stored.t()).triu(1) - 2 * torch.ones(len(stored), len(stored), device=stored.device).tril()
        return 1 + int(alike.argmax()) // len(stored)

    @torch.no_grad()
    def learn(self) -> None:
        """One step of the mixture by the gradient that the rule has left in ``p.grad``; between backward and ``optimizer.step()``.

        A gradient that is not finite moves nothing: it tells no direction, and the mixture would not be a number ever after.

        Raises:
            LightningFwdError: there is no gradient.
        """
        gradients = [p.grad for p in self._parameters]
        if all(gradient is None for gradient in gradients):
            raise LightningFwdError("CorrectionBank.learn() found no gradient", "", "call it after backward, before zero_grad")
        gradient = _flat([torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, gradients, strict=True)])
        shares, slopes = self.mixture.softmax(0), self.corrections @ gradient
        if not bool(slopes.isfinite().all()):
            return
        self.mixture = (self.mixture - self.rate * (shares * (slopes - shares @ slopes)).sign()).clamp(-_LARGEST, _LARGEST)
        self._put(self._now() + (self.mixture.softmax(0) - shares) @ self.corrections)

    @torch.no_grad()
    def recall(self, loss_of: Callable[[], Tensor | float]) -> int:
        """Take the stored correction with the lowest loss, if that is lower than the present one: an inference each.

        What an optimizer remembers of the steps before (momentum) is of another place: make it anew.

        Args:
            loss_of: the loss of the network as it stands, on samples of the domain at hand.

        Returns:
            the row of ``corrections`` that was taken; -1: the network stays as it is.
        """
        now = self._now()
        lowest, best, taken = float(loss_of()), now, -1
        lowest = lowest if math.isfinite(lowest) else math.inf  # diverged: whatever is stored is better
        try:
            for row, correction in enumerate(self.corrections):
                self._put(self._home + correction)
                if not torch.equal(self._home + correction, now) and (loss := float(loss_of())) < lowest:
                    lowest, best, taken = loss, self._home + correction, row
        except BaseException:
            best = now
            raise
        finally:
            self._put(best)
        return taken

    def beside(self, report: CostReport) -> CostReport:
        """The cost of a step with the bank: full, its corrections in Flash (written at a change only), float32 each.

        In RAM are the mixture and, for :meth:`learn`, the gradient of everything at once; values at home are those of Flash already.
        """
        values = len(self._home)
        ram, flash = 4 * (values * (self.rate > 0) + 1 + self.capacity), 4 * values * self.capacity
        plan = report.plan.with_resident("corrections", ram, flash)
        return dataclasses.replace(report, plan=plan) if report.device is None else dataclasses.replace(report, plan=plan).on(report.device)

    def _now(self) -> Tensor:
        return _flat([p.detach() for p in self._parameters])

    def _put(self, values: Tensor) -> None:
        parts = values.split([p.numel() for p in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
