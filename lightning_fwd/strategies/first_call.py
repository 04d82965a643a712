"""The network rewritten when training_step first calls it, where the batch does not tell what goes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import RewriteError
from ..graph.pending import PendingSteps
from ..graph.rewritten import RewrittenModel


@contextmanager
def step_of_first_call(
    network: nn.Module, meet: Callable[[Tensor], RewrittenModel], target: Any, loss_scale: float, manual: bool = False
) -> Iterator[None]:
    """A training step (:meth:`RewrittenModel.step`) of a network that is not rewritten yet.

    Its first call is answered by what ``meet`` makes of it, given the call's input ``(B, ...)``, with the labels that were handed over
    before. The network's own hooks run around that call as around any.
    """
    early = PendingSteps()
    with ExitStack() as step:
        step.enter_context(early.open(target, loss_scale))

        def first(*inputs: Any, **named: Any) -> Any:
            forward.close()
            x = next((value for value in (*inputs, *named.values()) if isinstance(value, Tensor)), None)
            if x is None:
                got = ", ".join(type(value).__name__ for value in (*inputs, *named.values())) or "nothing"
                raise RewriteError(
                    f"{type(network).__name__} was called with {got}",
                    "a learning rule takes over a network of one tensor in and logits (B, C) out",
                    "wrap it in a module whose forward takes the tensor and builds what the network wants",
                )
            model = meet(x)
            step.enter_context(model.step(early.target, loss_scale, manual))
            model.pending.handed_over = early.handed_over
            return model.forward(*inputs, **named)

        forward = step.enter_context(_with_forward(network, first))
        yield


@contextmanager
def _with_forward(network: nn.Module, forward: Callable[..., Any]) -> Iterator[ExitStack]:
    """Inside, a network with another forward on the object itself; until what is yielded is closed, which leaves later ones alone."""
    own = {key: value for key, value in vars(network).items() if key == "forward"}
    vars(network)["forward"] = forward
    with ExitStack() as back:
        back.callback(vars(network).update, own)
        back.callback(vars(network).pop, "forward")
        yield back
