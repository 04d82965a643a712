"""The Forward-Forward rule.

Hinton, "The Forward-Forward algorithm", 2022 (arXiv 2212.13345). Each block raises its goodness (mean or sum of squared activations) above
a threshold for a sample with its true label, and lowers it for a negative sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import StepError
from ...graph.blocks import parameters_of, shape_of, units_last
from ...graph.constants import INSERTED
from ...graph.counter_random import hash32, number, wrong_labels
from ...graph.grad_mode import grad_mode
from ...graph.phase import is_traced
from ...graph.programs import BlockRunner
from ...graph.rewritten import RewrittenModel
from ...graph.training_mode import untracked_statistics
from ...graph.whole import is_whole
from ...passes import (
    fold_batch_norm,
    insert_block_walls,
    insert_goodness_heads,
    insert_normalisation,
)
from ..base import (
    LearningMethod,
    Logits,
    StepRecord,
    Update,
    Updates,
    require_input_shape,
    require_logits,
    require_trainable,
)
from ..heads import ProjectionHead
from ..local_gradients import Together
from .goodness import SampleNorm, SquaredGoodness, contrast, contrast_error, peer_loss
from .label_embedding import LabelPattern
from .negatives import hard_labels, hybrids
from .rewriting import check_model, insert_label, pass_through
from .whole import contrast_of, drawn_labels, one_hot

_NOTHING = nullcontext()


@dataclass
class ForwardForward(LearningMethod):
    """Forward-Forward on every block but the last; a linear head learns from the user's loss, as the readout.

    Positive and negative samples share one batch; only gradients inside a block are ever computed, so a step stores one block's
    activations.

    Args:
        granularity: how the model divides into blocks, see :func:`lightning_fwd.graph.blocks.find_blocks`.
        goodness: ``"mean"`` or ``"sum"`` of squared activations; ``"spatial"``: the mean in each cell of a grid of ``pool`` per dimension.
        threshold: theta; None takes 1 for the mean and the number of units for the sum.
        loss: ``"threshold"`` (Hinton 2022) or ``"symmetric"`` (SymBa: positive against negative directly, no threshold).
        sharpness: factor on the goodness's margin in the loss (SymBa's alpha).
        label: ``"overlay"`` writes it over the first values, ``"planes"`` gives the first layer one plane per class beside the input,
            ``"context"`` every hidden block (a bias per channel and class: positive and negative are the same sample), ``"pattern"`` adds a
            wave per class to the whole input. ``"auto"``: overlay where the first layer is fully connected (not over
            tokens) or recurrent and there is room, else planes.
        label_scale: size of the label against the input's values.
        negatives: ``"wrong"`` labels, uniformly; ``"hard"`` ones, drawn from the head's own prediction; ``"hybrid"`` images, mixed of two
            (no label enters the blocks: unsupervised; needs batches of two or more).
        head: ``"own"``: the model's own last block, on the plain input: a pretrained model keeps what it was, and :func:`unwrap` gives the
            trained model. ``"layers"``: a linear map of the normalised activations of all hidden blocks but the first, seen with the
            neutral label
            (Hinton's readout; better from scratch; the model's own last block is then not trained). From the first step on it predicts as
            drawn: on a pretrained model fit it to the source first, by :class:`lightning_fwd.callbacks.CalibrateHeads`.
        prediction: ``"head"``, in one pass; ``"goodness"`` runs every label and takes the one of highest goodness, summed over all hidden
            blocks but the first (C passes in one batch).
        normalise_input: whether samples are normalised before the first block, as activations are before the others.
        pass_through_relu: whether the last ReLU of a block passes its gradient whole, as in public implementations of the paper.
        peer_normalisation: weight of the loss that draws all units towards equal mean activity; 0.03 in public implementations.
        greedy_steps: train the first hidden block alone for so many steps, then the next, the last one to the end; None trains all at once.
            A traced step (priced, exported) is one of the last block's.
        pool: positions per dimension of a convolutional activation that the ``"layers"`` head sees, and of the spatial goodness.
        batch_norm: ``"freeze"``; ``"train"``: positive and negative samples share one batch and its statistics, and the running statistics
            are those of the pass that predicts; or ``"fold"``: the stored statistics are folded into the layer before, so that a small
            stored variance does not multiply its step.
        seed: of labels drawn, planes and masks.

    Raises:
        RewriteError: the model has no hidden block, one class only, no room for the label, or the settings contradict each other.
    """

    positive: ClassVar[tuple[str, ...]] = ("sharpness", "label_scale", "greedy_steps", "pool")
    not_negative: ClassVar[tuple[str, ...]] = ("peer_normalisation",)
    from_scratch: ClassVar[str] = "ForwardForward(batch_norm='train', head='layers')"
    granularity: str | int | Sequence[str] = "layer"
    goodness: Literal["mean", "sum", "spatial"] = "mean"
    threshold: float | None = None
    loss: Literal["threshold", "symmetric"] = "threshold"
    sharpness: float = 1.0
    label: Literal["auto", "overlay", "planes", "context", "pattern"] = "auto"
    label_scale: float = 1.0
    negatives: Literal["wrong", "hard", "hybrid"] = "wrong"
    head: Literal["own", "layers"] = "own"
    prediction: Literal["head", "goodness"] = "head"
    normalise_input: bool = False
    pass_through_relu: bool = False
    peer_normalisation: float = 0.0
    greedy_steps: int | None = None
    pool: int = 2
    batch_norm: Literal["freeze", "train", "fold"] = "freeze"
    seed: int = 0

    @property
    def needs_target(self) -> bool:  # hybrids are made without labels
        return self.negatives != "hybrid"

    # ---- rewriting

    def rewrite(self, model: RewrittenModel) -> None:
        check_model(model, self.negatives, self.prediction)
        require_trainable(model, [p for p, _ in model.named_parameters()])
        if self.head == "layers":
            require_logits(model)
        if self.batch_norm == "fold":
            fold_batch_norm(model)
        hidden = model.plan[:-1]
        last = {b.index for b in hidden if units_last(b.nodes, model)}  # tokens: units in the last dimension
        if self.negatives != "hybrid":
            insert_label(model, self.label, self.label_scale, self.seed)
        insert_block_walls(model)
        insert_normalisation(model, SampleNorm(), self.normalise_input)
        insert_goodness_heads(model, lambda _block, _shape, last: SquaredGoodness(self.goodness, self.pool, last), hidden)
        if self.pass_through_relu:
            pass_through(model, hidden)
        device = model.example_input.device
        if self.peer_normalisation:
            model.inserted.peers = nn.Module()
            model.inserted.peers.units_last = last
            for block in hidden:
                units = shape_of(block.output)[-1 if block.index in last else 1]
                model.inserted.peers.register_buffer(str(block.index), torch.zeros(units, device=device))
        if self.head == "layers":
            generator = torch.Generator().manual_seed(self.seed)
            read = hidden[1:] or hidden
            heads = {
                str(b.index): ProjectionHead(shape_of(b.output), model.num_classes, self.pool, generator, units_last=b.index in last)
                for b in read
            }
            model.inserted.readout = nn.ModuleDict(heads).to(model.example_input)
            model.freeze({name for node in model.plan[-1].nodes for name in parameters_of(node, model)})

    # ---- one step

    def check_step(self, model: RewrittenModel, x: Tensor, target: Tensor | None) -> None:
        super().check_step(model, x, target)
        if self.negatives == "hybrid" and x.shape[0] < 2:
            raise StepError(
                "ForwardForward(negatives='hybrid') got a batch of one sample",
                "a hybrid mixes each sample with another of the batch; of one sample the negative would be the positive",
                "use batches of two or more samples (drop_last=True where the last batch is short), or negatives='wrong'",
            )
        if isinstance(getattr(model.inserted, "label_embedding", None), LabelPattern):
            require_input_shape(model, x, "the waves of the label have a value for each of their positions")

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with self._tracked(model, "head"):
            logits, parameters = self._readout(model, record.input)
        error, together = (yield Logits(logits)), Together()
        yield from together.add(parameters, logits, error, logits)
        with grad_mode(False):
            inputs, batch = self._contrasted(model, record, logits), record.input.shape[0]
        del logits, error
        stage = self._stage(record.counter, len(model.block_runners) - 1)
        for block in model.block_runners[: len(model.block_runners) - 1 if stage is None else stage + 1]:
            parameters = block.parameters(model) if stage in (None, block.index) else {}
            with grad_mode(bool(parameters), "forward"), self._tracked(model, "goodness"):
                h, goodness = block(model, *inputs[: len(block.inputs)])
            inputs = [h.detach(), *inputs[1:]]
            if parameters:
                yield from self._learn(model, record, block, h, goodness, batch, parameters, together)
            del h, goodness
        yield from together.rest()

    def _tracked(self, model: RewrittenModel, prediction: str) -> AbstractContextManager[None]:
        """A step passes each norm twice, and the two differ: the running statistics are those of the pass by which the model predicts."""
        return _NOTHING if self.batch_norm != "train" or prediction == self.prediction else untracked_statistics(model.modules_now())

    def _learn(
        self,
        model: RewrittenModel,
        record: StepRecord,
        block: BlockRunner,
        h: Tensor,
        goodness: Tensor,
        batch: int,
        parameters: dict[str, nn.Parameter],
        together: Together,
    ) -> Updates:
        if self._is_contrast_alone(h):
            margin = goodness.detach() - self._threshold(h)
            margin = margin if self.sharpness == 1.0 else margin * self.sharpness
            error = contrast_error(h, margin, self.loss, self.sharpness, record.loss_scale, self.goodness)
            yield from together.add(parameters, h, error, h)
            return
        with grad_mode(True, "goodness"):
            if is_whole() and self.goodness != "spatial":
                loss = contrast_of(h, self._threshold(h), self.goodness, self.sharpness, self.loss == "symmetric")
            else:
                loss = contrast((goodness - self._threshold(h)) * self.sharpness, self.loss, batch)
            if self.peer_normalisation:
                name = f"peers.{block.index}"
                peers = model.inserted.get_buffer(name)
                unequal, mean = peer_loss(h[:batch], peers, block.index in model.inserted.peers.units_last)
                loss = loss + self.peer_normalisation * unequal
                yield Update(f"{INSERTED}.{name}", peers, value=mean)
            loss = record.scaled(loss)
        yield from together.add(parameters, loss, None, h)

    def _is_contrast_alone(self, h: Tensor) -> bool:
        """Whether the gradient at ``h`` is :func:`contrast_error`'s, to the bit; a traced step shows what it is made of."""
        alone = self.goodness != "spatial" and not self.peer_normalisation and not is_traced() and not is_whole()
        return alone and type(h) is Tensor and h.dtype is torch.float32 and h.requires_grad and h.is_contiguous()

    def _contrasted(self, model: RewrittenModel, record: StepRecord, logits: Tensor) -> list[Tensor]:
        """The batch of positive, then negative samples, as inputs of the first block."""
        x, target, seed = record.input, record.target, number(record.counter) * 2 + hash32(self.seed)
        if self.negatives == "hybrid":
            return [torch.cat([x, hybrids(x, seed)])]
        if is_whole() and self.negatives == "wrong":
            wrong = drawn_labels(target, record.counter, 2, hash32(self.seed), model.num_classes)
            return [x, one_hot(torch.cat([target, wrong]), model.num_classes, x)]
        wrong = hard_labels(target, logits, seed) if self.negatives == "hard" else wrong_labels(target, model.num_classes, seed)
        return [x, _rows_of(torch.cat([target, wrong]), model.num_classes, x)]

    def _threshold(self, h: Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        return float(h[0].numel()) if self.goodness == "sum" else 1.0

    def beyond_the_step(self, model: RewrittenModel) -> str:
        stage = self._stage(model.inserted.counter, len(model.block_runners) - 1)
        greedy = stage is not None and stage < len(model.block_runners) - 2
        return "the stages of greedy training before the last block's; set greedy_steps=None to train all blocks at once" if greedy else ""

    def _stage(self, counter: Tensor, hidden: int) -> int | None:
        """Index of the block that learns now, or None for all."""
        if self.greedy_steps is None:
            return None
        if type(counter) is not Tensor:  # traced
            return hidden - 1
        return min(int(counter) // self.greedy_steps, hidden - 1)

    # ---- reading the activity out

    def _readout(self, model: RewrittenModel, x: Tensor) -> tuple[Tensor, dict[str, nn.Parameter]]:
        """The head's logits with a graph to its parameters, and these."""
        if self.head == "own":
            with grad_mode(False, "forward"):
                h = model.run_until_last(x)
            with grad_mode(True, "forward"):
                return model.run_last(h), model.block_runners[-1].parameters(model)
        with grad_mode(False, "forward"):
            features = list(self._features(model, x))
        with grad_mode(True, "forward"):
            logits = sum(head.linear(f) for head, f in zip(model.inserted.readout.values(), features, strict=True))
        prefix = f"{INSERTED}.readout"
        return logits, {f"{prefix}.{name}": p for name, p in model.inserted.readout.named_parameters() if p.requires_grad}

    def _features(self, model: RewrittenModel, x: Tensor) -> Iterator[Tensor]:
        """What the ``"layers"`` head sees of each block it reads: normalised, pooled, flattened; the label neutral."""
        inputs = [x]
        if self.negatives != "hybrid":
            inputs.append(x.new_full((x.shape[0], model.num_classes), 1 / model.num_classes))
        for block in model.block_runners[:-1]:
            h, _ = block(model, *inputs[: len(block.inputs)])
            inputs = [h, *inputs[1:]]
            if str(block.index) in model.inserted.readout:
                yield model.inserted.readout[str(block.index)].pooled(model.inserted.normalise(h))

    # ---- inference

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        if not model.has_learned:
            return model.run(x)
        if self.prediction == "goodness":
            return self.goodness_logits(model, x)
        return model.run(x) if self.head == "own" else self._readout(model, x)[0]

    def goodness_logits(self, model: RewrittenModel, x: Tensor) -> Tensor:
        """Goodness of each label ``(B, C)``, summed over the hidden blocks but the first (over the only one, if there is one)."""
        classes, batch = model.num_classes, x.shape[0]
        inputs, total = [x, torch.eye(classes, device=x.device, dtype=x.dtype).repeat_interleave(batch, 0)], 0.0
        hidden = model.block_runners[:-1]
        for block in hidden:
            h, goodness = block(model, *inputs[: len(block.inputs)])
            if block.index > 0 or len(hidden) == 1:
                total = total + (goodness.mean(1) if goodness.ndim > 1 else goodness)
            inputs = [h, *inputs[1:]]
        return total.reshape(classes, batch).t()

    def head_groups(self, model: RewrittenModel, x: Tensor) -> Iterator[tuple[list[nn.Module], list[Tensor]]]:
        """Heads that predict together and the features ``(B, m)`` that they see, for calibration."""
        if self.head == "layers":
            yield list(model.inserted.readout.values()), list(self._features(model, x))


def _rows_of(labels: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """One-hot rows ``(B, C)`` in the type of ``like``."""
    if is_traced() or type(labels) is not Tensor:
        return F.one_hot(labels, num_classes).to(like.dtype)
    return like.new_zeros((len(labels), num_classes)).scatter_(1, labels[:, None], 1.0)
