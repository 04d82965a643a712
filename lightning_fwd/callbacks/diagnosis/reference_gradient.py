"""What backpropagation would have done with the batch that another rule trains on, and without a trace of having asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...graph.constants import is_inserted
from ...graph.rewritten import RewrittenModel


class ReferenceGradient:
    """The loss's gradient through the network's own computation, by autograd.

    Follows one step of a rule: :meth:`before` and :meth:`after` around each of its training forwards, :meth:`before_updates` ahead of its
    updates,
    :meth:`take` after them.
    Dropout drops the same units (generators and step counter as in the rule's pass), batch norm sees the same batch, and generators,
    running statistics, gradients and ``requires_grad`` are left as they were found.

    Args:
        model: the rewritten network.
    """

    def __init__(self, model: RewrittenModel):
        self.model = model
        self._generators: tuple[Tensor, Tensor | None] | None = None
        self._outputs: list[Tensor] = []
        self._errors: dict[int, Tensor] = {}
        self._same: list[bool] = []
        self._earlier: dict[str, Tensor] = {}

    def before(self, x: Tensor) -> None:
        """Remember the generators as the rule's forward finds them."""
        self._generators = _generator_states(x.device)

    def after(self, x: Tensor, logits: Tensor) -> None:
        """Run the plain computation on the same input; ``logits`` are the rule's, which the user's loss is computed from."""
        index = len(self._outputs)
        logits.register_hook(lambda error: self._errors.__setitem__(index, error.detach()))
        now = _generator_states(x.device)
        assert self._generators is not None, "before() comes first"
        _set_generators(self._generators, x.device)
        with torch.enable_grad(), _everything_trains(self.model), _spare_buffers(self.model):
            output = self.model.run(x.detach())
        _set_generators(now, x.device)
        self._outputs.append(output)
        self._same.append(torch.allclose(output.detach().float(), logits.detach().float(), rtol=1e-2, atol=1e-3))

    def before_updates(self) -> None:
        """Remember the gradients of batches that this step is accumulated onto."""
        self._earlier = {name: p.grad.clone() for name, p in _parameters(self.model) if p.grad is not None}

    def take(self, targets: Sequence[Any]) -> dict[str, tuple[Tensor, Tensor]]:
        """Parameter name to (the rule's gradient of this step, backpropagation's); zeros where the rule has none.

        Where a rule predicts by other means than the network's logits (goodness, its own heads), the user's loss says nothing about those:
        then backpropagation's loss is the cross-entropy of the network's logits, times the batch's weight in an accumulation.

        Args:
            targets: of each forward its labels ``(B,)``, or anything else where there are none.
        """
        errors = [self._error(i, output, target) for i, (output, target) in enumerate(zip(self._outputs, targets, strict=True))]
        pairs = [(o, e.to(o.dtype)) for o, e in zip(self._outputs, errors, strict=True) if e is not None]
        self._outputs = []
        if not pairs:
            return {}
        names, parameters = zip(*_parameters(self.model), strict=True)
        with _everything_trains(self.model):
            wanted = torch.autograd.grad([o for o, _ in pairs], parameters, [e for _, e in pairs], allow_unused=True)
        found = {}
        for name, parameter, theirs in zip(names, parameters, wanted, strict=True):
            if theirs is not None or parameter.grad is not None:
                mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
                mine = mine - self._earlier[name] if name in self._earlier else mine
                found[name] = mine, torch.zeros_like(parameter) if theirs is None else theirs
        return found

    def _error(self, index: int, output: Tensor, target: Any) -> Tensor | None:
        error = self._errors.get(index)
        labelled = isinstance(target, Tensor) and target.shape == output.shape[:1] and not target.is_floating_point()
        if self._same[index] or not labelled:
            return error if error is not None and error.shape == output.shape else None
        plain = output.detach().float()
        return (plain.softmax(1) - F.one_hot(target, plain.shape[1])) * (self.model.pending.loss_scale / plain.shape[0])


def _parameters(model: RewrittenModel) -> list[tuple[str, nn.Parameter]]:
    """The network's own, without what a rule inserted."""
    return [(name, p) for name, p in model.named_parameters() if not is_inserted(name) and p.is_floating_point()]


@contextmanager
def _everything_trains(model: RewrittenModel) -> Iterator[None]:
    """Backpropagation has a gradient for layers too that the rule leaves frozen."""
    frozen = [p for _, p in _parameters(model) if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def _spare_buffers(model: RewrittenModel) -> Iterator[None]:
    """Copies in the place of all buffers: what a forward writes into them (running statistics) is lost."""
    places = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items() if buffer is not None]
    copies: dict[int, Tensor] = {}
    for module, name, buffer in places:
        module._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in places:
            module._buffers[name] = buffer


def _generator_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_generators(states: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
