"""What every learning rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import RewriteError, StepError
from ..graph.blocks import Granularity
from ..graph.rewritten import RewrittenModel
from ..graph.step import Logits, StepRecord, Update, Updates
from ..settings import check_settings

__all__ = ["LearningMethod", "Logits", "StepRecord", "Update", "Updates"]


class LearningMethod(ABC):
    """A learning rule: how a model is rewritten for it, and what one training step yields.

    Subclasses are dataclasses whose fields are their settings, so ``repr(method)`` builds an equal one; words, numbers and flags are
    checked when it is built. Pure torch, traceable by ``make_fx``: no ``.item()``, no branch on tensor values, nothing random but
    :mod:`lightning_fwd.graph.counter_random`.

    Attributes:
        needs_target: whether the step uses the labels themselves, beside the loss's gradient.
        updates_buffers_only: whether the rule legitimately trains no parameter.
        forward_only: whether the rule propagates no error from one block to the one before.
        repeats_frozen: whether what lies before the first trained layer gives a sample the same values in every step: they may be kept.
        reaches_input: whether it has an update for an input that requires grad.
        from_scratch: the rule as it learns on a network with batch norm that is not trained yet, where its defaults are for a pretrained
            one.
        positive, not_negative: settings that must be above 0, or not below. shares: those that must not be above 1.
    """

    needs_target: ClassVar[bool] = False
    updates_buffers_only: ClassVar[bool] = False
    forward_only: ClassVar[bool] = True
    repeats_frozen: ClassVar[bool] = False
    reaches_input: ClassVar[bool] = False
    positive: ClassVar[tuple[str, ...]] = ()
    not_negative: ClassVar[tuple[str, ...]] = ()
    shares: ClassVar[tuple[str, ...]] = ()
    from_scratch: ClassVar[str] = ""
    batch_norm: str = "freeze"
    granularity: Granularity = "layer"

    def __post_init__(self) -> None:
        if is_dataclass(self):
            check_settings(self, RewriteError, self.positive, self.not_negative)
            for name in self.shares:
                if getattr(self, name) > 1:
                    raise RewriteError(f"{type(self).__name__}: {name}={getattr(self, name)!r}", "it is a share", f"use 0 < {name} <= 1")

    @property
    def freeze_batch_norm(self) -> bool:
        """Whether batch norm runs on its stored statistics during training."""
        return self.batch_norm != "train"

    @abstractmethod
    def rewrite(self, model: RewrittenModel) -> None:
        """Insert what the rule needs, by passes over ``model.graph``.

        Raises:
            RewriteError: the rule cannot be applied to this model.
        """

    @abstractmethod
    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        """One training step; see :mod:`lightning_fwd.graph.step` for the protocol."""

    def beyond_the_step(self, model: RewrittenModel) -> str:
        """What this rule still does at some later step that the traced step (priced, exported) does not hold; "" if nothing."""
        return ""

    def unfinished(self, model: RewrittenModel) -> str:
        """What is still to come before the model may be used, of a rule that needs a certain number of steps; "" if nothing."""
        return ""

    @property
    def has_rounds(self) -> bool:
        """Whether its steps come in rounds, one for each of :meth:`stages`, that :meth:`end_of_round` describes in full."""
        return False

    def end_of_round(self, model: RewrittenModel) -> Iterator[Update]:
        """What the round at hand (:meth:`stages`) ends with once its samples were seen: new values, of sums that then begin anew.

        In float and from the model's state alone, so that it is traced and shipped like a step.
        """
        yield from ()

    def stages(self, model: RewrittenModel) -> Iterator[int]:
        """Put the model in turn into each state whose step has a cost of its own; yields the samples that its steps see (0: all there
        are)."""
        yield 0

    def beside_the_step(self, model: RewrittenModel) -> dict[str, int]:
        """Bytes that the traced step does not hold: ``"flash"`` that ships with the weights, ``"ram"`` of what is done between steps,
        activations
        being dead, ``"written"`` of weights that are set without a gradient."""
        return {}

    def variants(self) -> list[LearningMethod]:
        """The settings among which an adaptation chooses by the device's own samples; the rule itself where nothing is left open."""
        return [self]

    def prepared(self, net: nn.Module, source: Any, file: Path) -> LearningMethod:
        """The rule with what it takes along of the source, measured before the device leaves the house; most take nothing.

        Args:
            source: batches of the source, ``(input, target)``. file: where to write, less its ending, which the rule chooses.
        """
        return self

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        """Inference ``(B, ...) -> (B, C)``: the model's own computation unless the rule predicts by other means."""
        return model.run(x)

    def work_needed(self, model: RewrittenModel) -> dict[str, float]:
        """Layer to the fraction of its priced backward and update operations that the last step needed; a layer left out needs all.

        For rules whose sparsity depends on the data: the ledger prices the step's shapes, which are those of its worst case.
        """
        return {}

    def check_step(self, model: RewrittenModel, x: Tensor, target: Tensor | None) -> None:
        """Refuse a batch that this rule cannot learn from, before anything is changed."""
        if not self.needs_target:
            return
        name, classes = type(self).__name__, model.num_classes
        if target is None:
            raise StepError(
                f"{name} needs the labels of the batch and got none",
                "its loss is local to a block, so the gradient of the user's loss is not enough",
                "give batches as (input, target) or as a dict with 'target', tell the strategy by target_key, or call "
                "lf.set_labels(labels) in training_step before the network; to predict, call model.eval() first",
            )
        if target.shape != x.shape[:1] or target.dtype.is_floating_point:
            raise StepError(
                f"{name} got labels of shape {tuple(target.shape)} and {target.dtype} for an input batch of {x.shape[0]}",
                "it needs class indices, one integer per sample",
                "convert one-hot or soft labels to indices; name where they stand, ForwardOnlyStrategy(method, target_key=...); or hand "
                "them over, lf.set_labels(labels) in training_step before the network",
            )
        plain = type(target) is Tensor and not target.is_meta  # FakeTensor, functional wrappers, meta: no values to look at
        if plain and target.numel() and not torch.compiler.is_compiling():
            # One read for both: on a GPU it waits for what is queued. A label out of range there ends the process (CUDA) or counts as any
            # other number (Apple), and to find it only after the step would be to find it too late.
            both = torch.aminmax(target)
            least, most = (int(both.min), int(both.max)) if target.is_cpu else torch.stack(both).tolist()
            if least < 0 or most >= classes:
                raise StepError(
                    f"{name} got labels from {least} to {most}, but the model has {classes} classes",
                    "the number of classes is read from the logits of the example input",
                    "check the labels, or give the model an output per class; samples that your loss ignores (ignore_index) leave out "
                    "of what the "
                    "network gets: lf.set_labels(y[known]), then self(x[known])",
                )


def require_trainable(model: RewrittenModel, names: list[str]) -> None:
    """Raise unless at least one of the named parameters is left to train."""
    every = dict(model.named_parameters())
    if not any(every[name].requires_grad for name in names if name in every):
        raise RewriteError(
            f"{type(model.method).__name__} finds no parameters left to train in {type(model.original).__name__}",
            "all candidates have requires_grad=False, or the selection is empty",
            "set requires_grad=True on some of: " + ", ".join(names[:6] or list(every)[:6]),
        )


def require_logits(model: RewrittenModel) -> None:
    """Raise if the model ends in a softmax: for rules that take what it returns as logits, beside what the user's loss makes of it."""
    end = next(n for n in model.graph.nodes if n.op == "output").args[0]
    name = type(model.get_submodule(end.target)).__name__ if end.op == "call_module" else getattr(end.target, "__name__", end.target)
    if name.lower().replace("_", "") in ("softmax", "logsoftmax", "softmin"):
        raise RewriteError(
            f"{type(model.method).__name__} needs logits, {type(model.original).__name__} ends in {name}",
            "the rule learns from the loss's gradient there, which behind a softmax is not p - y (of NLLLoss it is -y, whatever the "
            "model predicts)",
            "let the model return what enters the softmax, and use cross_entropy as the loss",
        )


def require_input_shape(model: RewrittenModel, x: Tensor, why: str) -> None:
    """Raise unless the samples have the shape of those that the model was rewritten with."""
    if tuple(x.shape[1:]) != model.input_shape:
        raise StepError(
            f"{type(model.method).__name__} got samples of shape {tuple(x.shape[1:])}, the model was rewritten with {model.input_shape}",
            why,
            "give samples of that shape, or rewrite with an example of this one: ForwardOnlyStrategy(method, example_input=x)",
        )
