"""Make every batch norm normalise by its batch and hand the batch's statistics out, changing nothing in place."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn

from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel


class BatchStatistics(nn.Module):
    """``x -> (y, mean, var)``: x ``(B, C, ...)`` normalised by its own mean and variance per channel; var unbiased, as stored."""

    def __init__(self, path: str, norm: nn.Module):
        super().__init__()
        self.__dict__["norm"] = norm
        self.uses = tuple(f"{path}.{name}" for name, _ in norm.named_parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x, dims, correction=0)
        shape = [1, -1, *[1] * (x.ndim - 2)]
        y = (x - mean.reshape(shape)) * torch.rsqrt(var + self.norm.eps).reshape(shape)
        if self.norm.affine:
            y = y * self.norm.weight.reshape(shape) + self.norm.bias.reshape(shape)
        count = x.numel() // x.shape[1]
        return y, mean, var * (count / max(count - 1, 1))


def collect_batch_statistics(model: RewrittenModel) -> list[str]:
    """Replace the batch norms of the training graph; it emits (mean, variance) of each beside the logits.

    Returns:
        paths of the norms, in the order in which their statistics leave the graph.
    """
    holder, norms = nn.ModuleDict(), []
    model.inserted.add_module("statistics", holder)
    for node in list(model.graph.nodes):
        norm = model.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not norm.track_running_stats:
            continue
        path, key = node.target, node.target.replace(".", "/")
        holder[key] = BatchStatistics(path, norm)
        with model.graph.inserting_after(node):
            call = model.graph.call_module(f"{INSERTED}.statistics.{key}", node.args)
        after = call
        parts = []
        for i in range(3):
            with model.graph.inserting_after(after):
                after = model.graph.call_function(operator.getitem, (call, i))
            parts.append(after)
        call.meta["block"] = node.meta.get("block")
        for part in parts[1:]:
            part.meta.update(block=node.meta.get("block"), emit="statistics")
        model.replace(node, parts[0])
        norms.append(path)
    return norms
