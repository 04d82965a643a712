"""The local-loss rule.

Block-local cross-entropy: Nøkland & Eidnes, ICML 2019 (arXiv 1901.06656); Mono-Forward, TinyFoA, CwComp and DeeperForward by choice of
head.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RewriteError
from ...graph.blocks import Block, parameters_of
from ...graph.constants import INSERTED
from ...graph.cross_entropy import cross_entropy
from ...graph.grad_mode import grad_mode
from ...graph.phase import phase
from ...graph.rewritten import RewrittenModel
from ...graph.training_mode import untracked_statistics
from ...passes import fold_batch_norm, insert_block_walls, insert_goodness_heads, share_dropout_masks
from ..base import LearningMethod, Logits, StepRecord, Update, Updates, require_logits, require_trainable
from ..heads import ChannelGroups, ProjectionHead
from ..local_gradients import Together, local_gradients
from ..scheme import Ranking, resolve, train_only
from .fitted import fit_heads, load_heads


@dataclass
class LocalLoss(LearningMethod):
    """One cross-entropy per block on the class goodness of its activation; backpropagation inside a block, none between blocks.

    A step stores the activations of one block. The block that predicts learns from the user's own loss.

    Args:
        granularity: how the model divides into blocks, see :func:`lightning_fwd.graph.blocks.find_blocks`.
        head: what makes goodness of an activation. ``"projection"``: a learned linear map (Mono-Forward). ``"random"``: the same map, fixed
            as drawn (TinyFoA). ``"groups"``: channels in one group per class (CwComp, DeeperForward); the number of channels must divide.
        goodness: of the ``"groups"``: ``"mean_square"`` or ``"mean"``. temperature: factor on it.
        pool: positions per dimension that a projection sees.
        prediction: ``"own"``: the model's own last block, which learns from the user's loss; :func:`unwrap` gives the trained model.
            ``"last"``: the last hidden block's head; the model's own last block is not trained. ``"sum"``: the logits of all heads and of
            the model's own last block, added. From the first step on heads predict as drawn: on a pretrained model fit them to the source
            first, by :class:`lightning_fwd.callbacks.CalibrateHeads`.
        error: what a hidden block learns from. ``"own"``: the cross-entropy of its head. ``"output"``: the error of the network's own
            prediction, taken back through the head, which is then the block's guess of how its activation moves the logits, and stays as it
            is (fit it to the source: :class:`lightning_fwd.callbacks.CalibrateHeads`). A step runs forward twice; a block still stores its
            own activations only.
        lookahead: the head of a block stands so many blocks later, behind these as they are now (behind the last one: the model's own
            logits). A block's step then stores their activations too; as deep as the model and with ``error="output"`` it is
            backpropagation.
        heads: ``"drawn"``; ``"source"``: fitted to the source in closed form before the device leaves the house, by an adaptation that
            knows its source (:meth:`prepared`); or the file of heads that it wrote.
        train, channels, biases, ranking: what learns, as :class:`lightning_fwd.SparseUpdate` takes them; None: everything. Heads learn
            where their block does. Of a weight that learns in part the whole gradient is computed, and a part of it kept.
        batch_norm: ``"train"`` normalises by the batch, ``"freeze"`` by the stored statistics, ``"fold"`` folds these into the layer
            before: right for a pretrained model, where a small stored variance would multiply the step of the layer before.
        seed: of the heads.

    Raises:
        RewriteError: one class only, channels that do not divide into groups, or no hidden block for a head that is to predict.
    """

    needs_target: ClassVar[bool] = True
    positive: ClassVar[tuple[str, ...]] = ("temperature", "pool", "channels")
    not_negative: ClassVar[tuple[str, ...]] = ("lookahead",)
    shares: ClassVar[tuple[str, ...]] = ("channels",)
    granularity: str | int | Sequence[str] = "layer"
    head: Literal["projection", "random", "groups"] = "projection"
    goodness: Literal["mean_square", "mean"] = "mean_square"
    temperature: float = 1.0
    pool: int = 2
    prediction: Literal["own", "last", "sum"] = "own"
    error: Literal["own", "output"] = "own"
    lookahead: int = 0
    heads: str = "drawn"
    train: Literal["head", "biases", "norms"] | int | str | Sequence[str] | Mapping[str, float | Sequence[int]] | None = None
    channels: float = 1.0
    biases: Literal["trained", "all", "none"] | Sequence[str] = "trained"
    ranking: Ranking = "magnitude"
    batch_norm: Literal["train", "freeze", "fold"] = "train"
    seed: int = 0

    @property
    def forward_only(self) -> bool:  # type: ignore[override]  # a matter of the settings here
        return self.lookahead == 0

    def rewrite(self, model: RewrittenModel) -> None:
        require_trainable(model, [name for name, _ in model.named_parameters()])
        if model.num_classes < 2:
            raise RewriteError(
                f"LocalLoss needs two classes, {type(model.original).__name__} has {model.num_classes}",
                "the cross-entropy of one class is 0 whatever the activation, so no hidden block would learn",
                "give the model an output per class",
            )
        if self.prediction != "own" and len(model.plan) < 2:
            raise RewriteError(
                f"LocalLoss(prediction={self.prediction!r}) needs a hidden block, {type(model.original).__name__} has one block",
                "heads sit on hidden blocks",
                "use a finer granularity, or prediction='own'",
            )
        if self.error == "output" and self.prediction != "own":
            raise RewriteError(
                f"LocalLoss(error='output', prediction={self.prediction!r})",
                "the error is that of the model's own prediction, which no head then makes",
                "use prediction='own', or error='own'",
            )
        if self.prediction != "own" or self.lookahead:
            require_logits(model)
        if self.heads != "drawn":
            self._check_fitted()
        if self.batch_norm == "fold":
            fold_batch_norm(model)
        if self.train is not None:
            train_only(model, resolve(model, self.train, self.channels, self.biases, self.ranking, self.seed))
        generator = torch.Generator().manual_seed(self.seed)
        if self.error == "output":
            share_dropout_masks(model, self.seed)
        if not self.lookahead:  # a wall would stop what comes back from the blocks ahead
            insert_block_walls(model)
        insert_goodness_heads(model, lambda *where: self._head(model, *where, generator), model.plan[:-1])
        if self.prediction == "last":
            model.freeze({name for node in model.plan[-1].nodes for name in parameters_of(node, model)})
        if self.heads != "drawn":
            load_heads(model, self.heads)
        if self.train is not None and self.prediction == "own":  # nothing asks the head of a block that does not learn
            model.freeze({n for b in model.plan[:-1] if not self._learns(model, b) for n in self._head_parameters(model, b)})

    def _check_fitted(self) -> None:
        if self.head != "projection":
            raise RewriteError(
                f"LocalLoss(heads={self.heads!r}, head={self.head!r})", "only projections can be fitted", "use head='projection'"
            )
        if self.heads == "source":
            raise RewriteError(
                "LocalLoss(heads='source') has not seen the source",
                "the heads are fitted at home, by an adaptation whose recipe names the source's data",
                "use it in a stage of lightning-fwd adapt or compare, or LocalLoss(...).prepared(net, batches of the source, FILE)",
            )

    def prepared(self, net: nn.Module, source: Any, file: Path) -> LearningMethod:
        if self.heads != "source":
            return self
        drawn = dataclasses.replace(self, heads="drawn")
        mark = hashlib.sha256(repr(drawn).encode()).hexdigest()[:8]  # heads of other settings lie beside them
        return dataclasses.replace(self, heads=fit_heads(net, drawn, source, file.with_suffix(f".heads_{mark}.safetensors")))

    def _learns(self, model: RewrittenModel, block: Block) -> bool:
        return any(model.get_parameter(n).requires_grad for node in block.nodes for n in parameters_of(node, model))

    def _head_parameters(self, model: RewrittenModel, block: Block) -> set[str]:
        path = f"{INSERTED}.heads.{block.index}"
        return {f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()}

    def _head(self, model: RewrittenModel, block: Block, shape: tuple[int, ...], last: bool, generator: torch.Generator) -> nn.Module:
        classes, units = model.num_classes, shape[-1] if last else shape[1]
        if self.head != "groups":
            return ProjectionHead(shape, classes, self.pool, generator, self.head == "projection" and self.error == "own", last)
        if units % classes:
            raise RewriteError(
                f"LocalLoss(head='groups'): {units} channels of block {block.name!r} do not divide into {classes} groups",
                "each class needs as many channels as the others",
                f"give it {units // classes * classes or classes} or {(units // classes + 1) * classes} channels, or use head='projection'",
            )
        return ChannelGroups(classes, self.goodness, self.temperature, units_last=last)

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        if self.error == "output":
            yield from self._from_the_output(model, record)
            return
        h, total, together = record.input, None, Together()
        learned = partial(self._parts, model) if model.learns_in_part else iter
        predicting = model.block_runners[-2] if self.prediction == "last" else model.block_runners[-1]
        for block in model.block_runners[: predicting.index]:
            parameters = block.parameters(model)
            with grad_mode(bool(parameters), "forward"):
                h, goodness = block(model, h.detach())
            if self.prediction == "sum":
                total = goodness.detach() if total is None else total + goodness.detach()
            if parameters:
                if self.lookahead:
                    goodness = self._ahead(model, block.index, h, goodness)
                with grad_mode(True, "goodness"):
                    loss = record.scaled(cross_entropy(goodness, record.target))
                if self.lookahead:  # its graph holds the blocks ahead
                    yield from learned(local_gradients(parameters, loss))
                else:
                    yield from learned(together.add(parameters, loss, None, h))
                del loss
            del goodness
        with grad_mode(True, "forward"):
            logits = predicting(model, h.detach())[-1]
            if total is not None:
                logits = logits + total
        del h, total
        error = yield Logits(logits)
        yield from learned(together.add(predicting.parameters(model), logits, error, logits))
        yield from learned(together.rest())

    def _parts(self, model: RewrittenModel, updates: Iterable[Update]) -> Iterator[Update]:
        """The updates, of weights that learn in part their parts."""
        for update in updates:
            part = model.part_of(update.name)
            if part is None or update.gradient is None:
                yield update
            else:
                with phase("update"):
                    yield dataclasses.replace(update, gradient=part.of(update.gradient), part=part, fresh=True)

    def _ahead(self, model: RewrittenModel, index: int, h: Tensor, goodness: Tensor) -> Tensor:
        """The goodness at the head that a block learns by: its own, or one ``lookahead`` blocks later, with a graph to ``h``."""
        with grad_mode(True, "goodness"):
            for block in model.block_runners[index + 1 : index + 1 + self.lookahead]:
                with untracked_statistics(model.modules_now()):
                    h, *more = block(model, h)
                goodness = more[0] if more else h  # the last block gives the logits
        return goodness

    def _from_the_output(self, model: RewrittenModel, record: StepRecord) -> Updates:
        """Predict; then once more block by block, each taught by the error of that prediction through its head."""
        with grad_mode(False, "forward"):
            h = record.input
            for block in model.block_runners:
                h = block(model, h)[0]
        error = yield Logits(h)
        h = record.input
        with untracked_statistics(model.modules_now()):
            for block in model.block_runners:
                parameters = block.parameters(model)
                with grad_mode(bool(parameters), "second_forward"):
                    h, *more = block(model, h.detach())
                if parameters:
                    seen = self._ahead(model, block.index, h, more[0] if more else h)
                    yield from self._parts(model, local_gradients(parameters, seen, error))
                    del seen
                del more

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        if self.prediction == "own" or not model.has_learned:
            return model.run(x)
        *goodness, own = self._class_goodness(model, x)
        return goodness[-1] if self.prediction == "last" else sum(goodness, own)

    def _class_goodness(self, model: RewrittenModel, x: Tensor) -> Iterator[Tensor]:
        """Class goodness of each hidden block, then the model's own logits."""
        h = x
        for block in model.block_runners[:-1]:
            h, goodness = block(model, h)
            yield goodness
        yield model.block_runners[-1](model, h)[0]

    def head_groups(self, model: RewrittenModel, x: Tensor) -> Iterator[tuple[list[nn.Module], list[Tensor]]]:
        """Heads that predict together (here each alone) and the features ``(B, m)`` that they see, for calibration."""
        h = x
        for block in model.block_runners[:-1]:
            h, _ = block(model, h)
            head = model.inserted.heads[str(block.index)]
            if isinstance(head, ProjectionHead) and self.head == "projection":
                yield [head], [head.pooled(h)]
