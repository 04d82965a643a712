"""Refuse what would fill pages of C before minutes go into it: a recurrence is written out step by step, since a program has no loops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_fwd.graph.modes import kept_modes
from lightning_fwd.trace.step_graph import StepGraph

from .errors import ExportError

MOST_STEPS = 64  # some 20 kernel calls each in an LSTM, in training and in inference: about 100 KB of code and a minute of work
MOST_OPERATIONS = 6000
_MEND = "feed a shorter sequence (a strided convolution or pooling in front shortens it), or put a convolution over time in its place"


def require_few_steps(net: nn.Module, x: Tensor) -> None:
    """Run a network once and count how often each recurrent layer steps.

    Raises:
        ExportError: more than ``MOST_STEPS`` times, layers and directions counted each.
    """
    steps: dict[str, int] = {}

    def count(path: str, module: nn.Module, inputs: tuple) -> None:
        length = 1
        if isinstance(module, nn.RNNBase) and inputs and isinstance(inputs[0], Tensor):
            along = inputs[0].shape[1 if module.batch_first and inputs[0].dim() == 3 else 0]
            length = along * module.num_layers * (2 if module.bidirectional else 1)
        steps[path] = steps.get(path, 0) + length

    recurrent = [(path, m) for path, m in net.named_modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    hooks = [m.register_forward_pre_hook(lambda m, inputs, path=path: count(path, m, inputs)) for path, m in recurrent]
    try:
        with torch.no_grad(), kept_modes(net):
            net.eval()(x) if hooks else None
    finally:
        for hook in hooks:
            hook.remove()
    for path, m in recurrent:
        if steps.get(path, 0) > MOST_STEPS:
            raise ExportError(
                f"{path} ({type(m).__name__}) takes {steps[path]} steps per sample, at most {MOST_STEPS} are exported",
                "a program for a device has no loops: each step would be written out, kernel call by kernel call",
                _MEND,
            )


def require_few_operations(step: StepGraph) -> None:
    """Refuse a traced step of more than ``MOST_OPERATIONS`` nodes, naming the layer that has most of them.

    Raises:
        ExportError: there are more.
    """
    layers = [n.meta.get("layer", "") for n in step.graph.nodes if n.op == "call_function"]
    if len(layers) > MOST_OPERATIONS:
        worst = max(set(layers), key=layers.count)
        raise ExportError(
            f"the step has {len(layers)} operations, {layers.count(worst)} of them in {worst or 'no layer'}; at most {MOST_OPERATIONS}",
            "a program for a device has no loops: each would be a kernel call of its own",
            _MEND,
        )
