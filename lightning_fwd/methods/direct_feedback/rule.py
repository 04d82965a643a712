"""Direct feedback alignment.

Nøkland, "Direct feedback alignment provides learning in deep neural networks", NeurIPS 2016 (arXiv 1609.01596), equation 4: the error of
block l is ``B_l e`` with a fixed random B_l, in place of the Jacobian's transpose times e. The network learns to make use of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ...errors import RewriteError
from ...graph.across_ranks import mean
from ...graph.blocks import Granularity, shape_of, units_last
from ...graph.constants import INSERTED
from ...graph.counter_random import hash32
from ...graph.grad_mode import grad_mode
from ...graph.operand import known_shape
from ...graph.rewritten import RewrittenModel
from ...passes import fold_batch_norm, insert_block_walls
from ..base import LearningMethod, Logits, StepRecord, Update, Updates, require_trainable
from ..local_gradients import Together
from ..mirroring import mirrored, turned
from .feedback import BlockFeedback, random_matrices


@dataclass
class DirectFeedback(LearningMethod):
    """Project the output's error onto every block by a fixed matrix; backpropagation inside a block, none between blocks.

    No error waits for the one of the block behind it, so all blocks may update at once; their activations are kept until the error is
    known, as in backpropagation. The last block learns from the error itself.

    Args:
        granularity: how the model divides into blocks, see :func:`lightning_fwd.graph.blocks.find_blocks`.
        positions: rows of a matrix: ``"shared"``, one per unit (channel), whose error spreads evenly over its positions, as behind global
            pooling; or ``"own"``, one per value of the activation, as published for fully connected nets (a layer of 16 x 32 x 32 takes
            163,840 entries at 10 classes).
        feedback_scale: size of the matrices, in units of a last layer's initialisation.
        mirror_rounds: batches of noise that turn the matrices towards the network's own Jacobian before the first step; 0 leaves them
            random.
        mirror_interval: steps between one more batch of noise; 0: none. A traced step (priced, exported) holds no mirroring.
        mirror_noise: size of the noise, in units of the activation's root mean square. mirror_share: what part of a matrix one batch
            replaces.
        batch_norm: ``"train"`` normalises by the batch, ``"freeze"`` by the stored statistics, ``"fold"`` folds these into the layer
            before.
        seed: of the matrices and of the noise.

    Raises:
        RewriteError: the model has one block only, to which the error needs no matrix.
    """

    positive: ClassVar[tuple[str, ...]] = ("feedback_scale", "mirror_noise", "mirror_share")
    shares: ClassVar[tuple[str, ...]] = ("mirror_share",)
    not_negative: ClassVar[tuple[str, ...]] = ("mirror_rounds", "mirror_interval")
    granularity: Granularity = "layer"
    positions: Literal["shared", "own"] = "shared"
    feedback_scale: float = 1.0
    mirror_rounds: int = 0
    mirror_interval: int = 0
    mirror_noise: float = 0.1
    mirror_share: float = 0.05
    batch_norm: Literal["train", "freeze", "fold"] = "train"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        require_trainable(model, [name for name, _ in model.named_parameters()])
        if len(model.plan) < 2:
            raise RewriteError(
                f"DirectFeedback needs a hidden block, {type(model.original).__name__} has one block",
                "the last block learns from the error itself, and there is no other",
                "use a finer granularity, or backprop",
            )
        if self.batch_norm == "fold":
            fold_batch_norm(model)
        insert_block_walls(model)
        hidden = model.plan[:-1]
        shapes = [known_shape(shape_of(block.output))[1:] for block in hidden]
        last = [units_last(block.nodes, model) for block in hidden]
        rows = [math.prod(s) if self.positions == "own" else s[-1 if at_end else 0] for s, at_end in zip(shapes, last, strict=True)]
        matrices = random_matrices(rows, model.num_classes, self.feedback_scale, self.seed)
        model.inserted.feedback = nn.ModuleList(BlockFeedback(*given) for given in zip(shapes, matrices, last, strict=True))
        model.inserted.feedback.to(model.example_input.device)

    def beyond_the_step(self, model: RewrittenModel) -> str:
        due = self.mirror_interval or (self.mirror_rounds and int(model.inserted.counter) == 0)
        return "weight mirroring; mirror on the host and export with mirror_interval=0 after the first step" if due else ""

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        (*hidden, last), h = model.block_runners, record.input
        outputs: list[Tensor] = []
        for block in hidden:
            with grad_mode(bool(block.parameters(model)), "forward"):
                h = block(model, h.detach())[0]
            outputs.append(h)
        with grad_mode(True, "forward"):
            logits = last(model, h.detach())[0]
        del h
        matrices = self._mirrored(model, record, outputs)
        for index, matrix in matrices.items():
            feedback = model.inserted.feedback[index]
            yield Update(f"{INSERTED}.feedback.{index}.matrix", feedback.matrix, value=matrix)
        error = yield Logits(logits)
        together = Together()
        yield from together.add(last.parameters(model), logits, error, logits)
        del logits
        for index in reversed(range(len(hidden))):  # the last made is the first to go
            output = outputs.pop()
            with grad_mode(False, "projection"):
                delta = model.inserted.feedback[index](error, matrices.get(index)).to(output.dtype)
            yield from together.add(hidden[index].parameters(model), output, delta, output)
            del output, delta
        yield from together.rest()

    def _mirrored(self, model: RewrittenModel, record: StepRecord, outputs: list[Tensor]) -> dict[int, Tensor]:
        """The matrices as this step uses them, where mirroring is due."""
        if not (self.mirror_rounds or self.mirror_interval) or type(record.counter) is not Tensor:  # the latter: being traced
            return {}
        step = int(record.counter)
        if step == 0 and self.mirror_rounds:
            rounds, share = self.mirror_rounds, 1.0
        elif step > 0 and self.mirror_interval and step % self.mirror_interval == 0:
            rounds, share = 1, self.mirror_share
        else:
            return {}
        found = {}
        with grad_mode(False), model.in_mode(training=False):  # noise is no sample: it must not enter batch norm's statistics
            for index, output in enumerate(outputs):
                feedback, h = model.inserted.feedback[index], output.detach()
                strength, total = self.mirror_noise * mean(h.square().mean()).sqrt(), 0.0
                for i in range(rounds):
                    seed = (step << 16) + hash32(self.seed) + index * rounds + i
                    total = total + mirrored(lambda h, index=index: _rest(model, h, index + 1), h, seed, strength)
                found[index] = turned(feedback.matrix, feedback.rows_of(total), share)
        return found


def _rest(model: RewrittenModel, h: Tensor, start: int) -> Tensor:
    """The logits from what enters block ``start``."""
    for block in model.block_runners[start:]:
        h = block(model, h)[0]
    return h
