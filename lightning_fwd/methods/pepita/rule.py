"""PEPITA: the second forward pass replaces the backward one.

Dellaferrera & Kreiman, "Error-driven input modulation", ICML 2022 (arXiv 2201.11665). Pass 1: ``h = net(x)``, ``e = dL/dlogits``. Pass 2:
``h_err`` from ``x_err = x + F e``. Each layer's update is the outer product ``(h - h_err) (x) input_err``, the output layer's ``e (x)
input_err``. Every outer product is the vector-Jacobian product of one layer, so convolutions, norms and biases need no code of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...errors import RewriteError, StepError
from ...graph.constants import INSERTED
from ...graph.counter_random import hash32
from ...graph.grad_mode import grad_mode
from ...graph.gradients import gradients
from ...graph.phase import is_traced, layer, phase
from ...graph.rewritten import RewrittenModel
from ...graph.units import Residual, Unit, find_units, one_pass
from ...passes import fold_batch_norm, insert_feedback_projection, insert_normalisation, share_dropout_masks
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
from ..local_gradients import Together, is_small
from ..mirroring import mirrored, turned
from .feedback import FeedbackProjection
from .scaling import SampleStandardise, UpdateScale, input_magnitude, update_factor
from .tangent import Tangent, what_it_reads
from .walk import Walk

Pair = tuple[Tensor, Tensor]


@dataclass
class Pepita(LearningMethod):
    """Present the error to modulate the input activity.

    Weight decay is the optimizer's. Biases learn the mean of ``h - h_err``. Dropout drops the same units in both passes. The loss is taken
    as a
    mean over the batch: the error of a sum is B times as large, and so would be the modulation (then tell ``model.step(labels,
    loss_scale=B)``).

    Args:
        variant: ``"standard"``: ``(h - h_err) (x) input_err``. ``"hebbian"``: ``h (x) input - h_err (x) input_err`` (Srinivasan et al.,
            ICLR 2024). ``"time_local"``: the same two terms, each known in its own pass, so that pass 1 leaves nothing behind: the first is
            handed out before the logits. The output layer has ``e (x) input_err`` in all of them.
        second_pass: ``"modulated"`` runs the network on ``x + F e``, as published; ``"tangent"`` pushes F e through the first pass's
            Jacobians, the limit for a small F: ``(h - h_err) (x) input`` without the difference (:mod:`.tangent`). What integers can do.
        feedback_scale: size of F relative to He-uniform initialisation; the paper uses 0.05.
        feedback: ``"stored"`` keeps F ``(n_in, C)`` as a buffer, ``"regenerated"`` makes the same F from its seed in every step.
        input_scale: F's unit, the magnitude of the input. None: the power of two next to the example's root mean square, at least 1.
        update_scale: what the sum over a convolution's output positions is divided by: their number (``"positions"``, as published),
            its ``"root"``, or ``"none"``; or (``"activity"``) what makes the layer's difference as long as the error, see
            :func:`lightning_fwd.methods.pepita.scaling.update_factor`.
        output_error: the output layer learns from e of the first pass (``"clean"``) or of the second (``"modulated"``; needs
            cross-entropy).
        recompute: run pass 1 again beside pass 2 instead of storing its activations (MEMPEPITA, Pau & Aymone, COINS 2023): same updates
            to the bit, one forward pass more, memory of one layer instead of all.
        normalise: standardise every sample's activity between blocks; h is then the standardised one. The network that learns, and predicts
            once it has, is the rewritten one; the plain model does not hold the normalisation.
        mirror_rounds: batches of noise that turn F towards the network's weights before the first step; 0 leaves F random.
        mirror_interval: steps between one more batch of noise; 0: none. A traced step (priced, exported) holds no mirroring.
        mirror_noise: size of the noise, in units of ``input_scale``.
        mirror_share: what part of F one batch of noise replaces.
        residual: which activation a layer inside a residual block compares, see :func:`lightning_fwd.graph.units.find_units`.
        batch_norm: ``"freeze"`` uses the stored statistics in both passes, ``"fold"`` folds them into the layer before.
        seed: of F, of the dropout masks, of the noise.
    """

    positive: ClassVar[tuple[str, ...]] = ("feedback_scale", "input_scale", "mirror_noise", "mirror_share")
    shares: ClassVar[tuple[str, ...]] = ("mirror_share",)
    not_negative: ClassVar[tuple[str, ...]] = ("mirror_rounds", "mirror_interval")
    variant: Literal["standard", "hebbian", "time_local"] = "standard"
    second_pass: Literal["modulated", "tangent"] = "modulated"
    feedback_scale: float = 0.05
    feedback: Literal["stored", "regenerated"] = "stored"
    input_scale: float | None = None
    update_scale: UpdateScale = "root"
    output_error: Literal["clean", "modulated"] = "clean"
    recompute: bool = False
    normalise: bool = False
    mirror_rounds: int = 0
    mirror_interval: int = 0
    mirror_noise: float = 0.1
    mirror_share: float = 0.05
    residual: Residual = "sum"
    batch_norm: Literal["freeze", "fold"] = "freeze"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        self._check()
        require_trainable(model, [name for name, _ in model.named_parameters()])
        require_logits(model)
        share_dropout_masks(model, self.seed)
        if self.batch_norm == "fold":
            fold_batch_norm(model)
        model.inserted.run_plain = model.inference
        if self.normalise:
            insert_normalisation(model, SampleStandardise())
            model.compile_inference()
        model.inserted.input_scale = self.input_scale or input_magnitude(model.example_input)
        scale = self.feedback_scale * model.inserted.input_scale
        stored = self.feedback == "stored"
        feedback = FeedbackProjection(model.input_shape, model.num_classes, scale, self.seed, stored)
        insert_feedback_projection(model, feedback)
        start = next(n for n in model.graph.nodes if n.op == "call_module")
        model.inserted.units = find_units(model, model.graph, start, self.residual)
        model.inserted.unit_input = start.name
        model.inserted.one_pass = one_pass(model.graph, start, model.inserted.units)
        model.inserted.values_per_sample = sum(unit.values for unit in model.inserted.units)
        model.inserted.unit_output = next(n for n in model.graph.nodes if n.op == "output").args[0].name

    @property
    def _waits(self) -> bool:
        """Not where it was asked to keep little."""
        return not self.recompute and self.variant != "time_local"

    def _check(self) -> None:
        if self.variant == "time_local" and self.update_scale == "activity":
            raise RewriteError(
                "Pepita: variant='time_local' with update_scale='activity'",
                "the first term is due before h - h_err is known",
                "choose another scale",
            )
        if self.variant == "time_local" and self.recompute:
            raise RewriteError(
                "Pepita: variant='time_local' with recompute=True", "it stores nothing of pass 1 that could be recomputed", "leave one out"
            )
        if self.second_pass == "tangent" and (self.variant != "standard" or self.output_error != "clean"):
            raise RewriteError(
                f"Pepita(second_pass='tangent', variant='{self.variant}', output_error='{self.output_error}')",
                "a tangent pass gives the change of each activation, and no second activation that could be paired with anything",
                "use variant='standard' and output_error='clean'",
            )
        if self.feedback == "regenerated" and (self.mirror_rounds or self.mirror_interval):
            raise RewriteError(
                "Pepita: weight mirroring with feedback='regenerated'", "a mirrored F is no function of its seed", "use feedback='stored'"
            )

    def beyond_the_step(self, model: RewrittenModel) -> str:
        due = self.mirror_interval or (self.mirror_rounds and int(model.inserted.counter) == 0)
        return "weight mirroring; mirror on the host and export with mirror_interval=0 after the first step" if due else ""

    def check_step(self, model: RewrittenModel, x: Tensor, target: Tensor | None) -> None:
        super().check_step(model, x, target)
        require_input_shape(model, x, "F has a row for each of their values")

    def predict(self, model: RewrittenModel, x: Tensor) -> Tensor:
        return model.run(x) if not self.normalise or model.has_learned else model.inserted.run_plain(model, x)[0]

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        (*hidden, last), batch = model.inserted.units, record.input.shape[0]
        share = record.loss_scale / batch  # of one sample, for a loss that is a mean over the batch
        matrix = self._mirrored(model, record)
        if matrix is not None:
            yield Update(f"{INSERTED}.feedback.matrix", model.inserted.feedback.matrix, value=matrix)
        if self.second_pass == "tangent":
            yield from self._tangent_updates(model, record, matrix, share)
            return
        if self._is_at_once(model, batch):
            yield from self._updates_at_once(model, record, matrix, share)
            return
        first, kept, together = Walk(model, record.input, "forward"), {}, Together(self._waits)
        for unit in hidden:
            kept[unit.z] = first.run(unit, learns=self.variant != "standard" and not self.recompute), first.take(unit)
            if self.variant == "time_local":
                yield from _gradients(model, unit, *self._terms(unit, share, None, kept.pop(unit.z), None), together)
            elif self.recompute:
                del kept[unit.z]
        first.run(last)
        logits = first.output
        del first
        error = yield Logits(logits)
        with grad_mode(False, "projection"):
            error = error / share
            second = Walk(model, model.inserted.feedback(record.input, error, matrix), "second_forward")
        again = Walk(model, record.input, "forward")
        for unit in hidden:
            if self.recompute:
                kept[unit.z] = again.run(unit, learns=self.variant == "hebbian"), again.take(unit)
            pair = second.run(unit, learns=True), second.take(unit)
            terms = self._terms(unit, share, error, kept.pop(unit.z, None), pair)
            del pair
            yield from _gradients(model, unit, *terms, together)
        second.run(last, learns=True, through=True)
        with grad_mode(False, "error"):
            if self.output_error == "modulated":
                error = _error_of_second_pass(error, logits, second.output)
            deltas = [error * share]
        yield from _gradients(model, last, [second.output], deltas, together)
        yield from together.rest()

    def _is_at_once(self, model: RewrittenModel, batch: int) -> bool:
        """Whether both passes run as a whole: nothing is to be marked or freed layer by layer, and no layer's terms need the other's."""
        plain = self.variant == "standard" and self.output_error == "clean" and not self.recompute
        return plain and is_small(batch * model.inserted.values_per_sample)

    def _updates_at_once(self, model: RewrittenModel, record: StepRecord, matrix: Tensor | None, share: float) -> Updates:
        """The same updates, to the bit, of a net so small that its layers' Python would take longer than their arithmetic."""
        inserted, together = model.inserted, Together()
        (*hidden, last), one_pass = inserted.units, inserted.one_pass
        with grad_mode(False):
            logits, *first = one_pass(model, record.input)
        del first[len(hidden) :]  # z, which the second pass alone needs
        error = yield Logits(logits)
        with grad_mode(False):
            error = error / share
            x = inserted.feedback(record.input, error, matrix)
        with grad_mode(True):
            output, *second = one_pass(model, x)
        for i, unit in enumerate(hidden):
            parameters = unit.parameters(model)
            if parameters:
                with grad_mode(False):
                    difference = first[i] - second[i]
                    delta = difference * (share * update_factor(self.update_scale, unit.positions, difference, error))
                yield from together.add(parameters, second[len(hidden) + i], delta, delta)
        if parameters := last.parameters(model):
            with grad_mode(False):
                delta = error * share
            yield from together.add(parameters, output, delta, delta)
        yield from together.rest()

    def _tangent_updates(self, model: RewrittenModel, record: StepRecord, matrix: Tensor | None, share: float) -> Updates:
        (*hidden, last), kept, together = model.inserted.units, {}, Together(self._waits)
        walk = Walk(model, record.input, "forward")
        for unit in hidden:
            kept[unit.z] = what_it_reads(unit, walk), walk.run(unit, learns=not self.recompute)
            if self.recompute:
                del kept[unit.z]
        walk.run(last, learns=not self.recompute, through=True)
        logits = walk.output
        error = yield Logits(logits)
        with grad_mode(False, "projection"):
            error = error / share
            tangent = Tangent(model, model.inserted.feedback.change(record.input, error, matrix))
        if self.recompute:
            del logits
            walk = Walk(model, record.input, "forward")
        for unit in hidden:
            if self.recompute:
                kept[unit.z] = what_it_reads(unit, walk), walk.run(unit, learns=True)
            read, z = kept.pop(unit.z)
            change = tangent.run(unit, read, z)
            with grad_mode(False, "update"), layer(unit.path):
                factor = share * update_factor(self.update_scale, unit.positions, change, error)
                deltas = [change * -factor]
            del read, change
            yield from _gradients(model, unit, [z], deltas, together)
        if self.recompute:
            walk.run(last, learns=True, through=True)
        with grad_mode(False, "error"):
            deltas = [error * share]
        yield from _gradients(model, last, [walk.output], deltas, together)
        yield from together.rest()

    def _terms(
        self, unit: Unit, share: float, error: Tensor | None, first: Pair | None, second: Pair | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs z of the layer, and the delta that each is paired with; first, second: (z, h) of the two passes where they are at
        hand."""
        with grad_mode(False, "update"), layer(unit.path):
            difference = first[1] - second[1] if first and second else None
            factor = share * update_factor(self.update_scale, unit.positions, difference, error)
            if self.variant == "standard":
                return [second[0]], [difference * factor]
            terms = [(pair[0], pair[1] * (sign * factor)) for pair, sign in ((first, 1), (second, -1)) if pair]
            return [z for z, _ in terms], [delta for _, delta in terms]

    def _mirrored(self, model: RewrittenModel, record: StepRecord) -> Tensor | None:
        """F as this step uses it, where mirroring is due; None: as it is."""
        if not (self.mirror_rounds or self.mirror_interval) or type(record.counter) is not Tensor:  # the latter: being traced
            return None
        step, matrix = int(record.counter), model.inserted.feedback.matrix
        if step == 0 and self.mirror_rounds:
            rounds, share = self.mirror_rounds, 1.0
        elif step > 0 and self.mirror_interval and step % self.mirror_interval == 0:
            rounds, share = 1, self.mirror_share
        else:
            return None
        strength = self.mirror_noise * model.inserted.input_scale
        estimates = (mirrored(model.run, record.input, (step << 16) + hash32(self.seed) + i, strength) for i in range(rounds))
        # updates move h towards h_err, so F points along -J^T: the modulated pass shows an input on which the network would err less
        return turned(matrix, -sum(estimates), share)


def _gradients(model: RewrittenModel, unit: Unit, outputs: list[Tensor], deltas: list[Tensor], together: Together) -> Updates:
    """The vector-Jacobian product of one layer; lets go of what it was computed from before it hands anything out."""
    parameters = unit.parameters(model)
    if not parameters:
        return
    if len(outputs) == 1 and not is_traced():
        yield from together.add(parameters, outputs[0], deltas.pop(), outputs.pop())
        return
    with phase("update"), layer(unit.path):
        grads, owned = gradients(outputs, list(parameters.values()), deltas)
    outputs.clear(), deltas.clear()
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        if grad is not None:
            yield Update(name, parameter, grad, fresh=owned)


def _error_of_second_pass(error: Tensor, logits: Tensor, modulated: Tensor) -> Tensor:
    """``e_err = softmax(logits_err) - y`` ``(B, C)``, the labels read off the first pass's error: ``y = softmax(logits) - e``."""
    y = logits.softmax(1) - error
    rounding = max(1e-3, 4 * torch.finfo(y.dtype).eps)  # bfloat16 has 8 bits
    if type(y) is Tensor and bool((y < -rounding).any() or (y > 1 + rounding).any()):
        raise StepError(
            "Pepita: output_error='modulated' cannot read the labels off the loss's gradient",
            "only a cross-entropy, averaged over the batch, has softmax(logits) - y as its gradient per sample",
            "use F.cross_entropy without class weights, or output_error='clean'",
        )
    return modulated.softmax(1) - y
