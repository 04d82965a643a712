"""Declare that only some channels of a weight learn, so that nothing is kept, computed or written for the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import RewriteError
from ..graph.rewritten import RewrittenModel
from ..graph.step import Part


class Parts(nn.Module):
    """Per parameter the dimension and the entries that learn; the entries are buffers, constants of the step."""

    def __init__(self, dims: dict[str, int], channels: dict[str, Tensor]):
        super().__init__()
        self.dims = dims
        for name, index in channels.items():
            self.register_buffer(name.replace(".", "/"), index)

    def of(self, name: str) -> Part | None:
        return Part(self.dims[name], getattr(self, name.replace(".", "/"))) if name in self.dims else None


def channel_dim(weight: Tensor, groups: int = 1) -> int:
    """The dimension of a weight whose entries each read one input channel (grouped layers: one group of them).

    Linear ``(out, in)`` and convolutions ``(C_out, C_in, ...)``: 1. Depthwise and grouped convolutions, whose output channels see
    their own group only, and the vectors of norms: 0.
    """
    return 1 if weight.ndim > 1 and groups == 1 else 0


def slice_weight_gradients(model: RewrittenModel, channels: dict[str, tuple[int, ...]]) -> None:
    """Let each named parameter learn only where it reads some input channels.

    Args:
        channels: parameter name to input channels, ascending.

    Raises:
        RewriteError: a parameter is unknown, a channel is not one of the layer's, or a group would be torn.
    """
    dims, index = {}, {}
    for name, chosen in channels.items():
        path, _, _ = name.rpartition(".")
        layer = model.get_submodule(path)
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            raise RewriteError(
                f"cannot slice {name!r}: its layer is a transposed convolution",
                "the first dimension of its weight is that of the input channels, and slices are taken along the second",
                "train the whole layer (fraction 1.0)",
            )
        weight, groups = model.get_parameter(name), getattr(layer, "groups", 1)
        dims[name] = channel_dim(weight, groups)
        per_channel = 1  # entries along dim that read one input channel
        if dims[name] == 0 and weight.ndim > 1:
            if weight.shape[1] > 1:
                raise RewriteError(
                    f"cannot slice {name!r}: its layer has {groups} groups of {weight.shape[1]} input channels",
                    "the channels of a group are read together",
                    "train the whole layer (fraction 1.0)",
                )
            per_channel = weight.shape[0] // groups
        count = weight.shape[dims[name]] // per_channel
        if not chosen or list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < count:
            raise RewriteError(
                f"channels {_short(chosen)} of {name!r}",
                f"the layer has input channels 0 to {count - 1}",
                "give at least one, ascending, each once",
            )
        entries = torch.tensor(chosen).unsqueeze(1) * per_channel + torch.arange(per_channel)
        index[name] = entries.flatten().to(weight.device)
    model.inserted.parts = Parts(dims, index)


def _short(channels: tuple[int, ...]) -> str:
    return str(list(channels[:8]))[:-1] + (", ...]" if len(channels) > 8 else "]")
