"""What a step in integers costs: the lowered graph, priced at the widths that it has."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from ..cost import CostReport, Device, device_for, price
from ..graph.rewritten import RewrittenModel
from ..methods import METHODS, LearningMethod, rewrite
from .counts import SCRATCH
from .lower_step import IntegerStep
from .operators import UPDATES
from .rate import Rate
from .rule import IntegerRule
from .settings import Integer

_WIDTH = "integer"


def integer_cost(
    net: nn.Module,
    example_batch: Tensor | tuple[Tensor, Tensor],
    device: str | Path | Device | None = None,
    *,
    method: LearningMethod | str,
    momentum: float = 0.0,
    settings: Integer | None = None,
) -> CostReport:
    """Price one training step in integers, as it is exported: masters replace the int8 copy of what learns, draws and shifts are counted,
    kernels have their scratch. A frozen body runs by the plain kernels of such a step.

    Args:
        net: a plain network; left as it is. example_batch, device: as of :func:`lightning_fwd.step_cost`.

    Raises:
        RewriteError, StepError: the rule does not fit the network, or something in its step has no integer form.
        LightningFwdError: the device has no figures for int8.
    """
    device = device_for(device, "int8")
    x = example_batch if isinstance(example_batch, Tensor) else example_batch[0]
    target = torch.zeros(x.shape[:1], dtype=torch.int64) if isinstance(example_batch, Tensor) else example_batch[1]
    method = METHODS[method]() if isinstance(method, str) else method
    model = rewrite(copy.deepcopy(net), IntegerRule(method, settings or Integer()), x)
    model.method.rate = Rate(0.1, momentum)
    return price_integers(model.method.step(model, x, target), model, device)


def price_integers(step: IntegerStep, model: RewrittenModel, device: str | Path | Device | None = None) -> CostReport:
    """Price a lowered step of a model under its rule."""
    graph = dataclasses.replace(step.graph, trained=step.trained)
    for node in graph.graph.nodes:
        _annotate(node)
    report = price(graph, model, device, _WIDTH, optimizer="sgd", scheduled=False)
    learning = sum(step.source.learning_entries(name) for name in step.trained)
    everything = report.parameters_trained + report.parameters_frozen
    return dataclasses.replace(report, parameters_trained=learning, parameters_frozen=everything - learning)


def _annotate(node: fx.Node) -> None:
    """Say what an operation writes over, and what scratch its kernel takes."""
    name = str(node.target).removeprefix("lfwd.").removesuffix(".default")
    if node.op != "call_function":
        return
    if name in UPDATES:
        node.meta["in_place_of"] = node.args[0]
    if name in SCRATCH:
        node.meta["scratch"] = SCRATCH[name](*fx.map_arg(node.args, lambda n: n.meta["val"]))
