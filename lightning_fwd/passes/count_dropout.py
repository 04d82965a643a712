"""Dropout that a device can repeat: masks drawn from the step counter in place of the host's random generator."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

from torch import nn

from ..errors import RewriteError
from ..graph.rewritten import RewrittenModel
from .share_dropout_masks import DROPOUTS, SharedDropout

RANDOM = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)


def count_dropout(model: RewrittenModel, int8: bool = False) -> RewrittenModel:
    """A copy whose active dropout layers draw from the step counter, or the model itself where there are none.

    Args:
        int8: the part before the first trained layer will be quantised, as it is in inference: dropout in it is off.

    Raises:
        RewriteError: a module draws random numbers in a way that no other source can take the place of.
    """
    if not _active(model):
        return model
    twin = copy.deepcopy(model)
    exchange_dropout(twin, _before_training(model) if int8 else ())
    return twin


def exchange_dropout(model: RewrittenModel, off: Collection[str] = ()) -> dict[str, nn.Module]:
    """Let a model's own dropout layers draw from the step counter; those ``off`` drop nothing.

    Returns:
        the layers that were there, by path: :func:`put_back` takes them.

    Raises:
        RewriteError: as above.
    """
    active = _active(model)
    for place, (path, module) in enumerate(active.items()):
        counted = SharedDropout(0.0 if path in off else module.p, DROPOUTS[type(module)], place, 0, model)
        _put(model, path, counted.train(module.training))
    return active


def put_back(model: RewrittenModel, layers: Mapping[str, nn.Module]) -> None:
    """Undo :func:`exchange_dropout`."""
    for path, module in layers.items():
        _put(model, path, module.train(model.get_submodule(path).training))


def _put(model: RewrittenModel, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
    if path in model.captured_children:  # here the exchange is meant
        model.captured_children[path] = module


def _active(model: RewrittenModel) -> dict[str, nn.Module]:
    active = {path: m for path, m in model.named_modules() if isinstance(m, RANDOM) and _probability(m) > 0}
    if others := [path for path, m in active.items() if type(m) not in DROPOUTS]:
        kinds = ", ".join(f"{path} ({type(active[path]).__name__})" for path in others)
        raise RewriteError(
            f"{kinds} drops units inside the module",
            "its masks come from the host's random generator, which a device does not have",
            "set its dropout to 0, or put nn.Dropout layers around it",
        )
    return active


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
