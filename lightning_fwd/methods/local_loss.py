"""Local losses: every block learns from a loss of its own; no error crosses a block.

Projection heads: Mono-Forward (Gong et al. 2025), block-local cross-entropy: Nøkland & Eidnes, ICML 2019 (arXiv 1901.06656).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.blocks import Block
from ..graph.phase import phase
from ..graph.rewritten import RewrittenModel
from ..passes import insert_block_walls, insert_goodness_heads
from .base import LearningMethod, Logits, StepRecord, Update, Updates, require_trainable


class ProjectionHead(nn.Module):
    """Class goodness ``(B, C)`` of an activation: pooled to ``pool`` positions per dimension, flattened, one linear map."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, pool: int, generator: torch.Generator):
        super().__init__()
        spatial = [min(pool, size) for size in shape[2:]]
        self.pool = {0: nn.Identity, 1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}[len(spatial)](
            *([spatial] if spatial else [])
        )
        features = shape[1] * torch.Size(spatial).numel()
        self.linear = nn.utils.skip_init(nn.Linear, features, num_classes)  # leaves the global generator alone
        with torch.no_grad():
            self.linear.weight.uniform_(-1, 1, generator=generator).mul_(features**-0.5)
            self.linear.bias.zero_()

    def pooled(self, h: Tensor) -> Tensor:
        """The features ``(B, n)`` that the linear map sees."""
        return self.pool(h).flatten(1)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(self.pooled(h))


@dataclass
class LocalLoss(LearningMethod):
    """One cross-entropy per block on a projection head; the last block learns from the user's own loss on the model's own logits.

    Args:
        granularity: how the model divides into blocks, see :func:`lightning_fwd.graph.blocks.find_blocks`.
        pool: spatial positions per dimension that a head sees.
        batch_norm: ``"train"`` normalises by the batch, ``"freeze"`` by the stored statistics.
        seed: of the heads.
    """

    needs_target: ClassVar[bool] = True
    granularity: str | int | Sequence[str] = "layer"
    pool: int = 2
    batch_norm: Literal["train", "freeze"] = "train"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        require_trainable(model, [name for name, _ in model.named_parameters()])
        generator = torch.Generator().manual_seed(self.seed)

        def make_head(block: Block, shape: tuple[int, ...]) -> nn.Module | None:
            return ProjectionHead(shape, model.num_classes, self.pool, generator)

        insert_block_walls(model)
        insert_goodness_heads(model, make_head, model.plan[:-1])

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        h = record.input
        for block in model.blocks[:-1]:
            parameters = block.parameters(model)
            with torch.enable_grad(), phase("forward"):
                h, goodness = block(model, h.detach())
            with torch.enable_grad(), phase("goodness"):
                loss = F.cross_entropy(goodness, record.target) * record.loss_scale
            yield from local_gradients(parameters, loss)
            del goodness, loss
        with torch.enable_grad(), phase("forward"):
            (logits,) = model.blocks[-1](model, h.detach())
        del h
        error = yield Logits(logits)
        yield from local_gradients(model.blocks[-1].parameters(model), logits, error)


def local_gradients(parameters: dict[str, nn.Parameter], output: Tensor, error: Tensor | None = None) -> Updates:
    """Backpropagate inside one block: from its loss, or from its output and the error there."""
    if parameters and output.requires_grad:
        with phase("backward"):
            grads = torch.autograd.grad(output, list(parameters.values()), error, allow_unused=True)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            if grad is not None:
                yield Update(name, parameter, grad)
