"""Zeroth order: two inferences and no backward pass; nothing is stored but the logits.

Spall, "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation", IEEE TAC 1992; with the
perturbation
regenerated from its seed: Malladi et al., "Fine-tuning language models with just forward passes", NeurIPS 2023 (arXiv 2305.17333).
With ranks: Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", arXiv 1703.03864, after the
utilities of Wierstra et al., "Natural evolution strategies", JMLR 15, 2014.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...errors import RewriteError, StepError
from ...graph.across_ranks import mean
from ...graph.blocks import canonical_names
from ...graph.counter_random import hash32
from ...graph.frozen_prefix import split_frozen
from ...graph.grad_mode import grad_mode
from ...graph.phase import layer
from ...graph.rewritten import RewrittenModel
from ...graph.segment import Segment
from ...graph.weight_directions import along, seed_of, slope
from ...graph.whole import is_whole
from ...passes import insert_weight_perturbations, share_dropout_masks
from ..base import LearningMethod, Logits, StepRecord, Update, Updates, require_trainable
from ..scheme import resolve
from .fitness import LOSSES, NEED_LABELS, ranks


@dataclass
class ZerothOrder(LearningMethod):
    """Simultaneous perturbation (SPSA): the slope of the loss along one random direction z, times z. Or an evolution strategy: its rank.

    The first inference gives the user's loss its logits; the second runs at ``w + scale z``. The loss itself is not evaluated twice: with
    its error e at the logits y the slope is ``<e, y(w + scale z) - y(w)> / scale``, which is SPSA's difference of losses in the limit of a
    small scale. So any loss works, and the loss that is logged is that of the unperturbed model. z is a function of the step
    counter and is drawn again for the update, one parameter at a time. What lies before the first trained layer runs once.

    With ``estimator="ranks"`` the k losses and the unperturbed one are put in order. The places that a loss stands above the unperturbed
    one, as a share of k, count in place of its slope: the gradient is ``mean_i (rank_i - rank_0) / k * z_i``. It has no unit: in plain
    SGD no parameter moves by more than the rate, whatever the loss. A wild loss is the worst of k and no more. One direction counts by its
    sign.

    Args:
        train: which parameters, as for :class:`SparseUpdate` (whole layers only). The variance grows with their number: a head learns, a
            whole network hardly.
        scale: of the perturbation, +-scale per weight. On int8 weights it has to exceed their step.
        samples: directions averaged per step, one more inference each.
        seed: of the directions and the dropout masks.
        estimator: ``"slope"`` (SPSA) or ``"ranks"`` (an evolution strategy).
        loss: what a direction is judged by. ``"user"``: the loss of the training step, in first order as above. Or a loss of the rule's
            own, by its value alone: ``"cross_entropy"``, ``"error_rate"`` (which has no gradient), ``"entropy"`` of the predictions (which
            needs no label); the user's loss is then logged and no more.
    """

    positive: ClassVar[tuple[str, ...]] = ("scale", "samples")
    train: Literal["head", "biases", "norms"] | int | str | Sequence[str] | Mapping[str, float | Sequence[int]] = "head"
    scale: float = 1e-3
    samples: int = 1
    granularity: str | int | Sequence[str] = "layer"
    seed: int = 0
    estimator: Literal["slope", "ranks"] = "slope"
    loss: Literal["user", "cross_entropy", "error_rate", "entropy"] = "user"

    @property
    def needs_target(self) -> bool:  # type: ignore[override]  # a matter of the settings here
        return self.loss in NEED_LABELS

    def rewrite(self, model: RewrittenModel) -> None:
        scheme = resolve(model, self.train, 1.0, "trained", "magnitude", self.seed)
        if scheme.channels:
            raise RewriteError(f"ZerothOrder: train={self.train}", "it perturbs whole layers", "give fractions of 1.0, or no fractions")
        require_trainable(model, sorted(scheme.parameters))
        self._check_scale(model, scheme.parameters)
        model.freeze({name for name, _ in model.named_parameters()} - scheme.parameters)
        share_dropout_masks(model, self.seed)
        names = [n for n, p in model.named_parameters() if n in scheme.parameters and p.requires_grad]
        aliases = {name: names.index(first) for name, first in canonical_names(model).items() if first in names}  # tied: one place
        plain = split_frozen(model.graph, model, set(aliases))
        model.inserted.before_trained = plain.before
        model.inserted.after_entry = Segment(plain.after, plain.entries, [plain.output])
        model.inserted.places = {name: aliases[name] for name in names}
        insert_weight_perturbations(model, aliases, self.scale)
        moved = split_frozen(model.graph, model, set(aliases))
        seed = next(n for n in model.graph.nodes if n.op == "placeholder" and n.name == "seed")
        model.inserted.after_entry_moved = Segment(moved.after, [*moved.entries, seed], [moved.output])

    def _check_scale(self, model: RewrittenModel, names: set[str]) -> None:
        """A perturbation below the rounding of the weights leaves them where they are: the slope would be 0, or noise."""
        for parameter in map(model.get_parameter, sorted(names)):
            rounding = torch.finfo(parameter.dtype).eps * float(parameter.detach().abs().mean()) / 2
            if self.scale < rounding:
                raise RewriteError(
                    f"ZerothOrder: scale={self.scale} is lost in the rounding of {parameter.dtype} weights",
                    f"weights of this size ({tuple(parameter.shape)}) change by {rounding:.1e} or not at all",
                    "use a larger scale, or float32",
                )

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        with grad_mode(False, "forward"):
            entries = model.inserted.before_trained(model, record.input)
            (logits,) = model.inserted.after_entry(model, *entries)
        error = yield Logits(logits)
        self._refuse_integers()
        with grad_mode(False, "error"):
            before = None if self.loss == "user" else LOSSES[self.loss](logits, record.target)
        seeds, slopes = [], []
        for sample in range(self.samples):
            seeds.append(seed_of(record.counter, 1024 * self.samples, 1024 * sample + int(hash32(self.seed))))
            with grad_mode(False, "second_forward"):
                (moved,) = model.inserted.after_entry_moved(model, *entries, seeds[-1])
            with grad_mode(False, "error"):
                if before is None:
                    change = slope(error, moved, logits)
                else:
                    change = record.scaled(LOSSES[self.loss](moved, record.target) - before)
                slopes.append(change * (1.0 / (self.scale * self.samples)))
        if self.estimator == "ranks":
            with grad_mode(False, "error"):
                places = ranks(mean(torch.stack(slopes)))
                slopes = list(record.scaled(places * (1.0 / self.samples)).unbind())
        for name, place in reversed(model.inserted.places.items()):
            parameter = model.get_parameter(name)
            if not parameter.requires_grad:  # frozen since the rewrite
                continue
            with grad_mode(False, "update"), layer(name.rpartition(".")[0]):
                gradient = sum(along(s, seed, place, parameter, self.scale) for seed, s in zip(seeds, slopes, strict=True))
            yield Update(name, parameter, gradient, fresh=True, by_hand=True)

    def _refuse_integers(self) -> None:
        if is_whole() and (self.estimator != "slope" or self.loss != "user"):
            raise StepError(
                f"ZerothOrder(estimator={self.estimator!r}, loss={self.loss!r}) cannot be lowered to integers",
                "each slope has an exponent of its own there, and losses by their value have no integer form",
                "use estimator='slope' and loss='user', or train in float",
            )
