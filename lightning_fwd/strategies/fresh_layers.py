"""Told before training: a network whose weights are as drawn, under a rule that leaves them so or was at chance on its kind."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from ..graph.constants import is_inserted
from ..graph.rewritten import RewrittenModel

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_SEQUENCES = (nn.MultiheadAttention, nn.RNNBase)
_BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softsign, nn.Hardsigmoid)
_AT_CHANCE = {"ForwardForward": (*_SEQUENCES, *_BOUNDED), "Pepita": _SEQUENCES, "DirectFeedback": _SEQUENCES, "LocalLoss": _SEQUENCES}


def as_drawn(net: nn.Module) -> bool:
    """Whether every linear layer and convolution (two at least, or one beside attention or recurrence) still shows the uniform draw of
    torch's own ``reset_parameters``: within ``1 / sqrt(fan-in)``, and as spread as that."""
    layers = [m for path, m in net.named_modules() if isinstance(m, _LAYERS) and not is_inserted(path)]
    return len(layers) + any(isinstance(m, _SEQUENCES) for m in net.modules()) > 1 and all(map(_is_drawn, layers))


def _is_drawn(layer: Any) -> bool:
    weight = layer.weight.detach().float()
    bound = 1 / math.sqrt(max(1, weight[0].numel()))
    if float(weight.abs().max()) > bound * 1.001:
        return False
    return weight.numel() < 32 or abs(float(weight.square().mean().sqrt()) * math.sqrt(3) / bound - 1) < 3 / math.sqrt(weight.numel())


def warn_fresh_layers(model: RewrittenModel) -> None:
    """Warn where the network looks untrained and the rule will stay near chance for all that is known."""
    rule = type(model.method).__name__
    frozen = any(not p.requires_grad for name, p in model.named_parameters() if not is_inserted(name))
    kinds = sorted({type(m).__name__ for m in model.original.modules() if isinstance(m, _AT_CHANCE.get(rule, ()))})
    if not (kinds or (frozen and rule in ("SparseUpdate", "ZerothOrder"))) or not as_drawn(model.original):
        return
    why = f"on networks with {', '.join(kinds)} it stayed near chance from scratch" if kinds else "it leaves a part of them so"
    rank_zero_warn(
        f"{type(model.original).__name__} looks untrained (its weights are as torch draws them), and {rule} is for pretrained networks: "
        f"{why}. "
        "Load trained weights first, or train from scratch by strategy='backprop' or, without attention and recurrence, 'local_loss'."
    )
