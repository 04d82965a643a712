"""Dropout that a device can repeat: masks drawn from the step counter in place of the host's random generator."""

from __future__ import annotations

import copy

from torch import nn

from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.passes.share_dropout_masks import DROPOUTS, SharedDropout

from .errors import ExportError

RANDOM = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)


def count_dropout(model: RewrittenModel, int8: bool = False) -> RewrittenModel:
    """A copy whose active dropout layers draw from the step counter, or the model itself where there are none.

    Args:
        int8: the part before the first trained layer will be quantised, as it is in inference: dropout in it is off.

    Raises:
        ExportError: a module draws random numbers in a way that no other source can take the place of.
    """
    active = {path: m for path, m in model.named_modules() if isinstance(m, RANDOM) and _probability(m) > 0}
    if others := [path for path, m in active.items() if type(m) not in DROPOUTS]:
        kinds = ", ".join(f"{path} ({type(active[path]).__name__})" for path in others)
        raise ExportError(
            f"{kinds} drops units inside the module",
            "its masks come from the host's random generator, which a device does not have",
            "set its dropout to 0, or put nn.Dropout layers around it",
        )
    if not active:
        return model
    twin, off = copy.deepcopy(model), _before_training(model) if int8 else set()
    for place, (path, module) in enumerate(active.items()):
        parent, _, name = path.rpartition(".")
        counted = SharedDropout(0.0 if path in off else module.p, DROPOUTS[type(module)], place, 0, twin)
        setattr(twin.get_submodule(parent), name, counted.train(module.training))
        if path in twin.captured_children:  # in this twin the exchange is meant
            twin.captured_children[path] = counted
    return twin


def _before_training(model: RewrittenModel) -> set[str]:
    """Modules whose input depends on nothing that learns."""
    learns, paths = set(), set()
    every = dict(model.named_parameters(remove_duplicate=False))
    for node in model.graph.nodes:
        below = f"{node.target}."
        own = any(p.requires_grad and (name == node.target or name.startswith(below)) for name, p in every.items())
        if (own and node.op in ("call_module", "get_attr")) or not learns.isdisjoint(node.all_input_nodes):
            learns.add(node)
        elif node.op == "call_module":
            paths.add(node.target)
    return paths


def _probability(module: nn.Module) -> float:
    return getattr(module, "p", 0) or getattr(module, "dropout", 0)
