"""What a backward call may not be, and how to mend it."""

from __future__ import annotations

import cmath
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import StepError


def require_finite_loss(loss: Tensor) -> None:
    if not (cmath.isfinite(loss.item()) if loss.numel() == 1 else torch.isfinite(loss).all()):
        raise StepError(
            f"the loss is {loss.item() if loss.numel() == 1 else 'not finite'}",
            "an update from it would destroy the weights; they are unchanged",
            "lower the learning rate, or look for bad values in the batch",
        )


def require_finite_error(error: Tensor) -> None:
    if not torch.isfinite(error).all():
        raise StepError(
            "the gradient of the loss at the logits is not finite",
            "an update from it would destroy the weights; they are unchanged",
            "lower the learning rate, or look for bad values in the batch",
        )


def refuse_lost_logits() -> NoReturn:
    raise StepError(
        "the loss does not depend on the logits",
        "the training step detached or recomputed them",
        "compute the loss from the tensor that the model returned",
    )


def refuse_losses_beside(rule: str, beside: list[str]) -> None:
    if beside:
        raise StepError(
            f"the loss depends on {', '.join(beside[:3])}{' and others' if beside[3:] else ''} otherwise than through the logits",
            f"{rule} takes the gradient of the loss at the logits: a penalty on parameters would be lost",
            "use the optimizer's weight_decay; a term that is only logged: detach it",
        )


def refuse_second_backward() -> NoReturn:
    raise StepError(
        "a second backward through the logits of one forward call",
        "a step of a rule ends with its first backward, and its activations are gone: retain_graph keeps your own graph, not the network's",
        "add the losses up and call backward once, or call the network again for the second loss",
    )


def refuse_plain_backward() -> NoReturn:
    raise StepError(
        "loss.backward() was called on a model that is rewritten for a learning rule",
        "it stops at the logits, so no parameter would get a gradient; a LightningModule stays rewritten after fit",
        "call model.backward(loss), train with the rule's Lightning strategy (return the loss, or set automatic_optimization = False for a "
        "loss.backward() of your own), or call lf.unwrap(module) first for plain training",
    )


def refuse_gradient_at_input(error: BaseException) -> None:
    """Name what torch says of ``torch.autograd.grad(loss, x)`` where the logits between are a rule's.

    Raises:
        StepError: it is that.
    """
    if isinstance(error, RuntimeError) and "appears to not have been used in the graph" in str(error):
        raise StepError(
            "training_step asks for the gradient of the loss at the network's input, or within the network",
            "the logits that a learning rule hands out are cut off from the network and its input, so autograd finds no way there",
            "for adversarial inputs or a gradient penalty differentiate a copy of the plain network, copy.deepcopy(net) before the fit; "
            "or train plainly",
        ) from error
