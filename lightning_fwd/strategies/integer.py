"""What a Trainer must not do around a step in integers."""

from __future__ import annotations

from lightning.pytorch import Trainer

from ..errors import LightningFwdError


def require_plain_steps(trainer: Trainer) -> None:
    """Refuse what acts on gradients or in another precision: an integer step has neither.

    Raises:
        LightningFwdError: clipping, accumulation, or a precision other than 32-true.
    """
    asked = {
        "gradient_clip_val": trainer.gradient_clip_val,
        "accumulate_grad_batches": trainer.accumulate_grad_batches if trainer.accumulate_grad_batches != 1 else None,
        "precision": trainer.precision if trainer.precision != "32-true" else None,
    }
    for name, value in asked.items():
        if value:
            raise LightningFwdError(
                f"{name}={value!r} with integer training",
                "the step multiplies the rate into the error and rounds once: there is no gradient to clip or to add up, and no float "
                "to cast",
                "leave it out, or train in float",
            )
