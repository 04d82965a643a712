"""What the channels of the source domain look like: the mean and spread that a device brings its channels back to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..taps import Tapped

_TINY = 1e-12


@torch.no_grad()
def source_statistics(tapped: Tapped, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every layer, ``(C,)`` each: mean, and mean positive deviation from it, as its batch norm was trained to give them.

    The mean is the batch norm's shift. Its scale is the standard deviation; what the NPU measures is the mean positive deviation, so the
    ratio of the two is taken from samples. Mean and deviation of the samples themselves are no substitute: with stored statistics a batch
    norm gives other ones than it was trained to, and recomputing its statistics, which is what is imitated here, ends at the trained ones.

    Args:
        tapped: batch norms not folded.
        x: ``(N, ...)`` samples of the source domain.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [norm.register_forward_hook(_measure(layer, found)) for layer, norm in tapped.norms.items()]
    try:
        tapped.module(x)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: found[layer] for layer in tapped.layers}


def _measure(layer: str, found: dict[str, tuple[Tensor, Tensor]]):
    def hook(norm, inputs, output: Tensor) -> None:
        mean = output.mean((0, 2, 3))
        positive = (output - mean[:, None, None]).clamp(min=0).mean((0, 2, 3))
        ratio = positive / output.std((0, 2, 3)).clamp(min=_TINY)
        shift, scale = (norm.bias, norm.weight.abs()) if norm.affine else (torch.zeros_like(mean), torch.ones_like(mean))
        found[layer] = shift.clone(), ratio * scale

    return hook
