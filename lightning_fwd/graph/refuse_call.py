"""Refused: calls of a rewritten network that its graph or its rule could not answer rightly."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import StepError


def refuse_other_shape(network: Any, shape: tuple[int, ...], captured: tuple[int, ...]) -> NoReturn:
    """Samples of another shape, where sizes are numbers in the graph."""
    raise StepError(
        f"{type(network).__name__} got samples of shape {shape}, the model was rewritten with {captured}",
        "its forward counts or asserts by sizes, which are numbers in the captured graph",
        "give samples of that shape, or rewrite with an example of this one: ForwardOnlyStrategy(method, example_input=x)",
    )


def refuse_plain_training(method: Any) -> NoReturn:
    """A training forward outside a step, of a rule that learns by labels."""
    raise StepError(
        f"a model rewritten for {type(method).__name__} was run in training mode outside a training step of its rule",
        "a plain Trainer or loop trains it; a LightningModule stays rewritten after fit",
        "for plain training call lf.unwrap(module) first (import lightning_fwd as lf); to go on with the rule, use its Lightning strategy "
        "or `with model.step(labels):`; to predict, call model.eval()",
    )


def refuse_learning_ahead(method: Any) -> NoReturn:
    """An input with a history, under a rule that passes no error on."""
    raise StepError(
        "the input of the network requires grad, as behind layers that learn",
        f"{type(method).__name__} passes no error on into the input, so they would learn nothing",
        "freeze them or detach the input; or make them part of the network (ForwardOnlyStrategy(method, module=...)), or use backprop",
    )
