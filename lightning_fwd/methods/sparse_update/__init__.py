"""Sparse update: backpropagation that stops at the deepest trained layer and trains only a part of the model.

Lin et al., "On-device training under 256KB memory", NeurIPS 2022 (arXiv 2206.15472).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import RewriteError
from ...graph.phase import phase
from ...graph.rewritten import RewrittenModel
from ..base import LearningMethod, Logits, StepRecord, Updates
from ..scheme import Ranking, resolve, train_only
from .error_sparsity import ErrorSparsity
from .layers import Affine
from .quantisation import integer_factors, scale_for_integers
from .tape import Tape

__all__ = ["SparseUpdate"]


@dataclass
class SparseUpdate(LearningMethod):
    """Train the head, the biases, the last blocks, named layers or a fraction of their input channels; the rest is frozen.

    Nothing is computed or kept that the selection does not need: a trained weight keeps the input channels that it reads, a bias none,
    a ReLU on the way one bit per element, and below the deepest trained layer there is no backward pass.

    Args:
        train: ``"head"`` (the last layer), ``"biases"`` (every bias, batch norm's shift included), ``"norms"`` (scale and shift of every
            norm), an int k (the last k blocks; the last one holds the head), module paths (of a bare parameter: its name), a mapping of
            these to a fraction of their input channels (or the list of channels), or a scheme file (``.yaml``) as the budget search writes
            it.
        channels: fraction of input channels for layers given without one; of a layer that is trained in part, a norm's scale stays frozen.
        biases: which biases learn: of the ``"trained"`` layers, ``"all"``, ``"none"``, or those of the modules named. A scheme file
            has its own.
        ranking: which channels a fraction means, see :func:`lightning_fwd.methods.scheme.rank_channels`.
        error_density: fraction of each layer's output channels whose error is propagated; ``(low, high)``: adapted at every step to the
            size of the error between these, see :class:`ErrorSparsity`.
        integer_scales: layer to ``(weight scale, input scale)``, for a model whose weights are held in integer units:
            quantisation-aware scaling of the gradients, see :func:`integer_factors`.
        batch_norm: ``"freeze"`` keeps the stored statistics, ``"train"`` updates them (its layers then keep what autograd keeps).
        seed: of the random ranking.

    Gradients outside the trained part are zero, so an optimizer with weight decay would still shrink those weights: leave it at 0.
    """

    forward_only: ClassVar[bool] = False
    repeats_frozen: ClassVar[bool] = True
    train: Literal["head", "biases", "norms"] | int | str | Sequence[str] | Mapping[str, float | Sequence[int]] = "head"
    channels: float = 1.0
    biases: Literal["trained", "all", "none"] | Sequence[str] = "trained"
    ranking: Ranking = "magnitude"
    error_density: float | tuple[float, float] = 1.0
    integer_scales: Mapping[str, tuple[float, float]] | None = None
    batch_norm: Literal["freeze", "train"] = "freeze"
    granularity: str | int | Sequence[str] = "layer"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        if not 0.0 < self.channels <= 1.0:
            raise RewriteError(f"SparseUpdate: channels={self.channels}", "it is a fraction of input channels", "use 0 < channels <= 1")
        low, high = self._error_densities()
        scheme = resolve(model, self.train, self.channels, self.biases, self.ranking, self.seed)
        model.integer_factors = integer_factors(model, self.integer_scales or {}, scheme.parameters)
        trained = train_only(model, scheme)
        model.tape = Tape(model, trained, self.freeze_batch_norm)
        if low < 1.0:
            last = model.plan[-1].layers[-1]  # its few outputs are the error itself
            dense = [s.path for s in model.tape.stages if isinstance(s, Affine) and s.path != last and s.is_ungrouped(model)]
            model.inserted.error_sparsity = ErrorSparsity(low, high, dense).to(model.example_input.device)
            model.tape.sparsity = model.inserted.error_sparsity

    def _error_densities(self) -> tuple[float, float]:
        both = self.error_density
        ends = tuple(both) if isinstance(both, Sequence) else (both, both)
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        if len(ends) != 2 or not numbers or not 0.0 < ends[0] <= ends[1] <= 1.0:
            raise RewriteError(
                f"SparseUpdate: error_density={both}",
                "it is a fraction of output channels, or a lower and an upper one",
                "use 0 < low <= high <= 1",
            )
        return ends

    def work_needed(self, model: RewrittenModel) -> dict[str, float]:
        return {} if model.tape.sparsity is None else model.tape.sparsity.needed(model)

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with phase("forward"):
            logits, kept = model.tape.forward(model, record.input)
        error = yield Logits(logits)
        del logits
        updates = model.tape.backward(model, kept, error)
        del error
        yield from updates if not model.integer_factors else scale_for_integers(updates, model.integer_factors)
