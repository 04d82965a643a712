"""Which input channels of a layer matter most, by torch-pruning's importance measures over the model's dependency groups."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...errors import RewriteError
from ...graph.counter_random import hash32, random_bits

Ranking = Literal["magnitude", "taylor", "random"]
RANKINGS: tuple[str, ...] = get_args(Ranking)


def rank_channels(
    net: nn.Module, example_input: Tensor, layers: list[str], ranking: Ranking = "magnitude", seed: int = 0
) -> dict[str, Tensor]:
    """Importance of each input channel of each named layer (convolution or linear), float32 ``(C_in,)``.

    Channels of one dependency group (tied by a residual addition, a norm, a depthwise convolution) are judged together.

    Args:
        ranking: ``"magnitude"`` of the weights, ``"taylor"`` (weight times gradient; reads ``p.grad``, so run a backward pass before), or
            ``"random"``, the control.
        seed: of ``"random"``.

    Raises:
        RewriteError: unknown ranking, a layer that is none of these, no gradients for ``"taylor"``, or a model that torch-pruning cannot
            follow.
    """
    if ranking not in RANKINGS:
        raise RewriteError(f"ranking={ranking!r}", "", f"known: {', '.join(RANKINGS)}")
    modules = {path: net.get_submodule(path) for path in layers}
    unknown = [p for p, m in modules.items() if not isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    if unknown:
        raise RewriteError(
            f"cannot rank the input channels of {', '.join(unknown)}",
            "only convolutions and linear layers have them",
            "train the layer whole (fraction 1.0), or name its channels",
        )
    grouped = [p for p, m in modules.items() if 1 < getattr(m, "groups", 1) < m.in_channels]
    if grouped:
        raise RewriteError(
            f"cannot rank the input channels of {', '.join(grouped)}",
            "the channels of a group are read together",
            "train the layer whole (fraction 1.0)",
        )
    if ranking == "random":
        return {p: random_bits(hash32(seed) + 7919 * i, (_channels(m),)).float() for i, (p, m) in enumerate(modules.items())}
    if ranking == "taylor" and any(m.weight.grad is None for m in modules.values()):
        raise RewriteError(
            "ranking='taylor' found no gradients",
            "it weighs each weight by its gradient",
            "run a backward pass on representative data before the rewrite, or use ranking='magnitude'",
        )
    return _group_importance(net, example_input, modules, ranking)


def _channels(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def _group_importance(net: nn.Module, x: Tensor, modules: dict[str, nn.Module], ranking: Ranking) -> dict[str, Tensor]:
    import torch_pruning as tp  # here: it takes a second, and most rewrites rank nothing

    measure = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance}[ranking]()
    flags, training = {p: p.requires_grad for p in net.parameters()}, net.training
    try:
        net.eval()
        for p in flags:
            p.requires_grad_(True)  # the graph is read off autograd
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(net, x)
        found = {}
        for path, module in modules.items():
            prune = tp.prune_linear_in_channels if isinstance(module, nn.Linear) else tp.prune_conv_in_channels
            if getattr(module, "groups", 1) > 1:
                prune = tp.prune_depthwise_conv_out_channels
            group = graph.get_pruning_group(module, prune, idxs=list(range(_channels(module))))
            found[path] = measure(group).detach().float()
        return found
    except Exception as error:
        raise RewriteError(
            f"torch-pruning cannot rank the channels of {type(net).__name__}",
            f"{type(error).__name__}: {error}",
            "name the channels of each layer, or use ranking='random'",
        ) from error
    finally:
        net.train(training)
        for p, flag in flags.items():
            p.requires_grad_(flag)
