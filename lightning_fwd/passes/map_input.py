"""Put a linear map of the features in front of a network, for input whose last dimension is no place: spectra, cepstra, sensor channels."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ..errors import RewriteError
from ..graph.capture import capture
from ..graph.plain_layers import is_plain

INPUT_MAP = "input_map"  #: the module's name


@torch.no_grad()
def map_input(net: nn.Module, samples: Tensor) -> fx.GraphModule:
    """The network with ``y = M x + b`` over the last dimension of its input in front; M is the identity, so it predicts what it did.

    Alignment sets the map by the input's mean and covariance; any rule trains it as a layer of the network. Keyword spotting: 10 cepstral
    coefficients of each of 49 frames, 110 values.

    Args:
        net: not changed, but its layers are shared. samples: inputs ``(N, ..., d)``.

    Returns:
        plain torch, the layers under their names and an ``nn.Linear(d, d)`` as ``input_map``; a network that has one as it is.

    Raises:
        CaptureError, RewriteError: the network cannot be captured, or reads no floating-point values along a last dimension.
    """
    if is_plain(getattr(net, INPUT_MAP, None), nn.Linear) and isinstance(net, fx.GraphModule):
        return net
    if samples.ndim < 2 or not samples.is_floating_point():
        raise RewriteError(
            f"{type(net).__name__} cannot be given a map of its input",
            f"its input is of shape {tuple(samples.shape)} and {samples.dtype}",
            "the map needs features (N, ..., d) of floating point",
        )
    captured = capture(net, samples[:2])
    if any(True for _ in captured.inserted.children()):
        raise RewriteError(
            f"{type(net).__name__} cannot be given a map of its input", "it uses functional dropout", "make the dropout a module"
        )
    root, size = captured.graph_module, samples.shape[-1]
    if hasattr(root, INPUT_MAP):
        raise RewriteError(f"{type(net).__name__} has a module {INPUT_MAP!r} already", "the map would take its place", "rename it")
    layer = nn.Linear(size, size).to(samples.device, samples.dtype)
    layer.weight.copy_(torch.eye(size))
    layer.bias.zero_()
    root.add_submodule(INPUT_MAP, layer)
    given = next(n for n in root.graph.nodes if n.op == "placeholder")
    with root.graph.inserting_after(given):
        mapped = root.graph.call_module(INPUT_MAP, (given,))
    given.replace_all_uses_with(mapped, delete_user_cb=lambda user: user is not mapped)
    root.graph._tracer_cls = None  # as of widen_head: the capture's own takes arguments
    return fx.GraphModule(root, root.graph, type(net).__name__).train(net.training)
