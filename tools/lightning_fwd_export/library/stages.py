"""All stages of an adaptation as graphs over one set of weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_fwd.adaptation import Stage
from lightning_fwd.adaptation.firmware import for_device, require_device_rule
from lightning_fwd.methods import rewrite
from lightning_fwd.passes import count_dropout

from .rounds import trace_rounds
from .trace import TracedStage, require_own_prediction, stage_names, trace_repeated


def trace_stages(net: nn.Module, stages: Sequence[Stage], example: Tensor, reconstructs: bool = False) -> list[TracedStage]:
    """All stages on copies of one network.

    Args:
        reconstructs: the target of a step is its input, the loss the mean squared error.

    Raises:
        RewriteError: a rule does not fit, or cannot share the network's weights. StepError: its step cannot be traced.
        ExportError: two stages would have one name, or a rule predicts by other means than the network.
    """
    traced, names = [], stage_names(stages)
    for stage, name in zip(map(for_device, stages), names, strict=True):
        own = stage.network(copy.deepcopy(net).eval(), example)
        model = rewrite(own, stage.method, example.repeat(2, *[1] * (example.dim() - 1))[:2])
        require_device_rule(stage, model)
        model = count_dropout(model)
        require_own_prediction(stage, model, example, net)
        x = example[:1].repeat(stage.batch_size, *[1] * (example.dim() - 1))
        batch = x, x.clone() if reconstructs else torch.zeros(len(x), dtype=torch.int64)
        made = (trace_rounds if stage.method.has_rounds else trace_repeated)(stage, model, name, batch)
        made.reconstructs = reconstructs
        traced.append(made)
    return traced
