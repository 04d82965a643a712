"""Make every batch norm normalise by its batch and hand the batch's statistics out, changing nothing in place."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import RewriteError, StepError
from ..graph.across_ranks import mean as mean_over_ranks
from ..graph.across_ranks import ranks
from ..graph.constants import INSERTED
from ..graph.phase import phase
from ..graph.plain_layers import BATCH_NORMS, is_plain
from ..graph.rewritten import RewrittenModel


class BatchStatistics(nn.Module):
    """``x -> (y, mean, var)``: x ``(B, C, ...)`` normalised by its own mean and variance per channel; var unbiased, as stored.

    A norm with a forward of its own runs that in training mode, on copies of its buffers.
    """

    def __init__(self, path: str, norm: nn.Module):
        super().__init__()
        self.__dict__["norm"], self.path = norm, path
        self.uses = tuple(f"{path}.{name}" for name, _ in norm.named_parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = x.numel() // x.shape[1] * ranks().size
        if count < 2:
            raise StepError(
                f"batch norm {self.path!r} sees one value per channel, for an input of shape {tuple(x.shape)}",
                "the variance of one value is zero",
                "use larger batches",
            )
        with phase("normalisation"):
            return self._normalised(x, count) if is_plain(self.norm, *BATCH_NORMS) else self._by_its_own_forward(x)

    def _normalised(self, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        dims = [0, *range(2, x.ndim)]
        # Mean, then squares around it: on a CPU some 20 times faster than torch.var_mean over these dimensions, and as exact.
        mean = mean_over_ranks(x.mean(dims, keepdim=True))
        centred = x - mean
        var = mean_over_ranks(centred.square().mean(dims, keepdim=True))
        factor, shape = torch.rsqrt(var + self.norm.eps), [1, -1, *[1] * (x.ndim - 2)]
        if self.norm.affine:
            y = centred * (factor * self.norm.weight.reshape(shape)) + self.norm.bias.reshape(shape)
        else:
            y = centred * factor
        return y, mean.flatten(), var.flatten() * (count / (count - 1))

    def _by_its_own_forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        norm, buffers = self.norm, {name: buffer.clone() for name, buffer in self.norm.named_buffers()}
        kept = norm.training, norm.momentum
        norm.training, norm.momentum = True, 1.0  # the running statistics become the batch's; its children (dropout, say) stay in eval mode
        try:
            y = functional_call(norm, buffers, (x,))
        finally:
            norm.training, norm.momentum = kept
        return y, buffers["running_mean"], buffers["running_var"]


def collect_batch_statistics(model: RewrittenModel, under: Sequence[str] = ()) -> list[str]:
    """Replace the batch norms of the training graph; it emits (mean, variance) of each beside the logits.

    Args:
        under: paths of modules whose norms are meant; empty: all.

    Raises:
        RewriteError: a norm is called twice, or sits inside a module that is kept whole.

    Returns:
        paths of the norms, in the order in which their statistics leave the graph.
    """
    holder, norms = nn.ModuleDict(), []
    model.inserted.add_module("statistics", holder)
    for node in list(model.graph.nodes):
        norm = model.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not norm.track_running_stats or not _is_under(node.target, under):
            continue
        if node.target in norms:
            raise RewriteError(
                f"batch norm {node.target!r} is called twice",
                "it has one set of statistics for two kinds of activation, and which it should take is unclear",
                "give each call a norm of its own",
            )
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
    hidden = [
        p for p, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and p not in norms and _is_under(p, under)
    ]
    inside = [p for p in hidden if any(p.startswith(f"{whole}.") for whole in model.opaque)]
    if inside:
        raise RewriteError(
            f"the statistics of {', '.join(inside)} cannot be collected",
            "; ".join(f"{path} is kept whole: {reason}" for path, reason in model.opaque.items()),
            "take the control flow out of that module, or use batch_norm='train' with another method",
        )
    return norms


def _is_under(path: str, modules: Sequence[str]) -> bool:
    return not modules or any(path == module or path.startswith(f"{module}.") for module in modules)
