"""Steps that wait for their error: a training forward hands out logits, the user's loss on them comes back as the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NoReturn
from weakref import ref

import torch
from torch import Tensor, nn

from ..errors import StepError
from .step import Step, StepRecord, accumulate


class PendingSteps:
    """The steps of one training step of the user's whose logits are out; each lives as long as its logits do.

    Attributes:
        target, loss_scale: of the step that is running (:meth:`RewrittenModel.step`).
        stepping: whether one is.
        forgotten: whether logits were handed out since the last step and have died, detached or recomputed, before a loss came back.
    """

    def __init__(self) -> None:
        self.target: Any = None
        self.loss_scale = 1.0
        self.stepping = self.forgotten = False
        self._waiting: list[tuple[ref[Tensor], Step]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __getitem__(self, index: int) -> tuple[ref[Tensor], Step]:
        return self._waiting[index]

    def __deepcopy__(self, _memo: dict) -> PendingSteps:
        return PendingSteps()  # logits that are out belong to the model that handed them out

    def __reduce__(self) -> Any:
        return PendingSteps, ()

    def clear(self) -> None:
        self._waiting.clear()
        self.forgotten = False

    def hand_out(self, step: Step) -> Tensor:
        """Remember a step and give its logits ``(B, C)``, cut off from the network, for the user's loss."""
        logits = step.logits
        assert logits is not None
        step.logits = None
        steps = ref(self)

        def forget(dead: ref[Tensor]) -> None:  # no loss can reach them any more: nothing of the step is kept
            if (me := steps()) is not None and any(item[0] is dead for item in me._waiting):
                me._waiting[:] = [item for item in me._waiting if item[0] is not dead]
                me.forgotten = True

        self._waiting.append((ref(logits, forget), step))
        logits.register_post_accumulate_grad_hook(_refuse_plain_backward)  # torch.autograd.grad does not call it
        return logits.clone()  # which may be written into, as a leaf may not

    def finish(self, loss: Tensor, rule: str, parameters: dict[str, nn.Parameter], others: Sequence[nn.Parameter]) -> int:
        """The error of every step from ``loss``, then the rule's updates into ``p.grad``.

        Args:
            rule: its name, for errors.
            parameters: of the model, by name; others: outside it, which get their ordinary gradient.

        Returns:
            how many steps were finished.

        Raises:
            StepError: the loss is not finite, does not depend on the logits of this step, or depends on trained parameters beside them.
        """
        if not torch.isfinite(loss).all():  # read before anything is changed, at the price of one synchronisation on a GPU
            raise StepError(
                f"the loss is {loss.item()}",
                "an update from it would destroy the weights; they are unchanged",
                "lower the learning rate, or look for bad values in the batch",
            )
        others = [p for p in others if p.requires_grad]
        reached = [(logits, step) for weak, step in self._waiting if (logits := weak()) is not None]
        leaves = [logits for logits, _ in reached]
        own = {name: p for name, p in parameters.items() if p.requires_grad}
        kept = any(step.inputs is not None for _, step in reached)
        if not leaves:
            _refuse_lost_logits()
        grads = torch.autograd.grad(loss, [*leaves, *others, *own.values()], retain_graph=kept, allow_unused=True)
        errors, rest = grads[: len(leaves)], grads[len(leaves) :]
        if all(g is None for g in errors):
            _refuse_lost_logits()
        _refuse_losses_beside(rule, [name for name, grad in zip(own, rest[len(others) :], strict=True) if grad is not None])
        for parameter, grad in zip(others, rest, strict=False):
            if grad is not None:
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad + grad
        self.clear()
        inputs = []
        for (_, step), error in zip(reached, errors, strict=True):
            if error is not None:
                with step.autocast():  # later passes of the rule run in the same precision as its first
                    for update in step.finish(error):
                        accumulate(update)
                inputs += [step.inputs] if step.inputs is not None else []
        if inputs:
            torch.autograd.backward([before for before, _ in inputs], [x.grad for _, x in inputs])
        return len(reached)


def start(updates: Callable[[StepRecord], Any], record: StepRecord, before: Tensor) -> Step:
    """Run a rule up to its logits, under the autocast of now.

    Args:
        before: the input as it came; where it has a history, ``record.input`` is a leaf in its place.
    """
    autocast = _autocast_now(record.input.device.type)
    with autocast():
        step = Step(updates(record), autocast)
    step.inputs = (before, record.input) if before is not record.input else None
    return step


def _refuse_lost_logits() -> NoReturn:
    raise StepError(
        "the loss does not depend on the logits",
        "the training step detached or recomputed them",
        "compute the loss from the tensor that the model returned",
    )


def _refuse_losses_beside(rule: str, beside: list[str]) -> None:
    if beside:
        raise StepError(
            f"the loss depends on {', '.join(beside[:3])}{' and others' if beside[3:] else ''} otherwise than through the logits",
            f"{rule} takes the gradient of the loss at the logits: a penalty on parameters would be lost",
            "use the optimizer's weight_decay; a term that is only logged: detach it",
        )


def _autocast_now(device: str) -> Callable[[], AbstractContextManager]:
    """The present autocast, to be entered again. Its cache would hand a weight cast under ``no_grad`` to a pass that wants its gradient: off."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return partial(torch.autocast, device, dtype=dtype, enabled=enabled, cache_enabled=False)


def _refuse_plain_backward(logits: Tensor) -> None:
    raise StepError(
        "loss.backward() was called on a model that is rewritten for a learning rule",
        "it stops at the logits, so no parameter would get a gradient; a LightningModule stays rewritten after fit",
        "call model.backward(loss), train with the rule's Lightning strategy, or call lf.unwrap(module) first for plain training",
    )
