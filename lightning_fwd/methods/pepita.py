"""PEPITA: the second forward pass replaces the backward one.

Dellaferrera & Kreiman, "Error-driven input modulation", ICML 2022 (arXiv 2201.11665). Pass 1: ``h = net(x)``, ``e = dL/dlogits``. Pass 2:
``h_err`` from ``x_err = x + F e``. Each layer's update is the outer product ``(h - h_err) (x) input_err``, the output layer's ``e (x) input_err``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..graph.counter_random import uniform
from ..graph.errors import RewriteError
from ..graph.phase import layer, phase
from ..graph.rewritten import RewrittenModel
from ..graph.units import Unit, find_units
from ..passes import fold_batch_norm, insert_feedback_projection, share_dropout_masks
from .base import LearningMethod, Logits, StepRecord, Update, Updates, require_trainable


class FeedbackProjection(nn.Module):
    """``x + F e``: F ``(n_in, C)`` fixed, uniform in ``+-scale * sqrt(6 / n_in)``, from a counter-based generator."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, scale: float, seed: int):
        super().__init__()
        n_in = torch.Size(input_shape).numel()
        bound = scale * (6.0 / n_in) ** 0.5
        self.register_buffer("matrix", uniform(seed, (n_in, num_classes)) * bound)

    def forward(self, x: Tensor, error: Tensor) -> Tensor:
        return x + (error.to(self.matrix.dtype) @ self.matrix.t()).reshape(x.shape).to(x.dtype)


@dataclass
class Pepita(LearningMethod):
    """Present the error to modulate the input activity.

    Args:
        feedback_scale: size of F relative to He-uniform initialisation; the paper uses 0.05.
        recompute: run pass 1 again beside pass 2 instead of storing its activations (MEMPEPITA, Pau & Aymone 2023): same updates, one
            forward pass more, memory of one layer instead of all.
        position_scale: a convolution's update summed over its output positions, divided by their number (``"mean"``, as published), its
            square root (``"root"``) or not at all (``"sum"``).
        residual: which activation a layer inside a residual block compares, see :func:`lightning_fwd.graph.units.find_units`.
        batch_norm: ``"freeze"`` uses the stored statistics in both passes, ``"fold"`` folds them into the layer before.
        seed: of F.
    """

    feedback_scale: float = 0.05
    recompute: bool = False
    position_scale: Literal["mean", "root", "sum"] = "root"
    residual: Literal["sum", "own"] = "sum"
    batch_norm: Literal["freeze", "fold"] = "freeze"
    seed: int = 0

    def rewrite(self, model: RewrittenModel) -> None:
        if self.feedback_scale <= 0:
            raise RewriteError(
                f"Pepita: feedback_scale={self.feedback_scale}",
                "without feedback no hidden layer learns",
                "use a positive scale",
            )
        require_trainable(model, [name for name, _ in model.named_parameters()])
        share_dropout_masks(model)
        if self.batch_norm == "fold":
            fold_batch_norm(model)
        feedback = FeedbackProjection(model.input_shape, model.num_classes, self.feedback_scale, self.seed)
        insert_feedback_projection(model, feedback)
        start = next(n for n in model.graph.nodes if n.op == "call_module")
        model.units = find_units(model, model.graph, start, self.residual)
        model.unit_input = start.name
        model.unit_output = next(n for n in model.graph.nodes if n.op == "output").args[0].name

    def updates(self, model: RewrittenModel, record: StepRecord) -> Updates:
        units, x, batch = model.units, record.input, record.input.shape[0]
        stored, clean = {}, {model.unit_input: x}
        with torch.no_grad(), phase("forward"):
            for unit in units:
                _run(unit, model, clean)
                if not self.recompute:
                    stored[unit.h] = clean[unit.h]
                _forget(unit, clean)
            logits = clean[model.unit_output]
        del clean
        error = yield Logits(logits)
        with torch.no_grad(), phase("projection"):
            error = error * (batch / record.loss_scale)  # per sample, for a loss that is a mean over the batch
            modulated = {model.unit_input: model.inserted.feedback(x, error)}
        clean = {model.unit_input: x}
        for unit in units[:-1]:
            if self.recompute:
                with torch.no_grad(), phase("forward"):
                    _run(unit, model, clean)
                stored[unit.h] = clean[unit.h]
                _forget(unit, clean)
            parameters = unit.parameters(model)
            z = _run(unit, model, modulated, learns=bool(parameters))
            with torch.no_grad(), phase("update"), layer(unit.path):
                delta = stored.pop(unit.h) - modulated[unit.h]
                delta = delta * (record.loss_scale / batch / self._position_divisor(unit))
            _forget(unit, modulated)
            yield from _gradients(unit, parameters, z, delta)
            del z, delta
        last, parameters = units[-1], units[-1].parameters(model)
        _run(last, model, modulated, learns=bool(parameters), through=True)
        yield from _gradients(last, parameters, modulated[model.unit_output], error * (record.loss_scale / batch))

    def _position_divisor(self, unit: Unit) -> float:
        return {"mean": float(unit.positions), "root": unit.positions**0.5, "sum": 1.0}[self.position_scale]


def _run(
    unit: Unit, model: RewrittenModel, values: dict[str, Tensor], learns: bool = False, through: bool = False
) -> Tensor:
    """One layer and what follows it; returns the layer's output z, with a graph back to its parameters if it ``learns``.

    ``through`` keeps the graph past z (the output layer's error is known after what follows it).
    """
    if not learns:
        with torch.no_grad():
            (z,) = unit.layer(model, *(values[name] for name in unit.layer_inputs))
            unit.run_rest(model, z, values)
            return z
    with phase("second_forward"), layer(unit.path):
        with torch.enable_grad():
            (z,) = unit.layer(model, *(values[name] for name in unit.layer_inputs))
        with torch.set_grad_enabled(through):
            unit.run_rest(model, z if through else z.detach(), values)
    return z


def _gradients(unit: Unit, parameters: dict[str, nn.Parameter], z: Tensor, delta: Tensor) -> Updates:
    """The vector-Jacobian product of one layer with ``delta``."""
    if parameters:
        with phase("update"), layer(unit.path):
            grads = torch.autograd.grad(z, list(parameters.values()), delta)
        for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
            yield Update(name, parameter, grad)


def _forget(unit: Unit, values: dict[str, Tensor]) -> None:
    if unit.h_is_dead:
        values.pop(unit.h, None)
