"""What a network must be to be captured: one tensor in, one out, its own code in sight."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

from ..errors import CaptureError, ExampleError

_WRAPPERS = (OptimizedModule, nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_signature(net: nn.Module) -> None:
    """Refuse a network that is wrapped or compiled, or takes several inputs.

    Raises:
        CaptureError: it is.
    """
    wrapped = {"_orig_mod": "torch.compile", "module": "DataParallel"}
    for attribute, wrapper in wrapped.items():
        if isinstance(net, _WRAPPERS) and isinstance(getattr(net, attribute, None), nn.Module):
            raise CaptureError(
                f"the model is wrapped by {wrapper}",
                "a wrapper hides the layers and their names",
                f"rewrite net.{attribute} first and wrap the result; in a LightningModule assign the network itself, without {wrapper}",
            )
    if getattr(net, "_compiler_ctx", None) is not None:  # left by Lightning, which takes the wrapper off
        raise CaptureError(
            f"{type(net).__name__} was compiled by torch.compile",
            "a compiled forward cannot be traced",
            "give the module as it is, without torch.compile",
        )
    if isinstance(net, torch.jit.ScriptModule):
        raise CaptureError(f"{type(net).__name__} is a TorchScript module", "its code is compiled already", "rewrite the original module")
    require_one_input(net)


def require_one_input(net: nn.Module) -> None:
    """Refuse a network whose forward cannot be called with one tensor.

    Raises:
        CaptureError: it takes several inputs.
    """
    required = [
        p.name
        for p in inspect.signature(net.forward).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(required) > 1:
        raise CaptureError(
            f"{type(net).__name__}.forward takes {len(required)} inputs ({', '.join(required)}), expected one",
            "the learning rules modulate, overlay or re-run the one input tensor of a classifier",
            "wrap the model so that forward(x) takes one tensor, with the other inputs bound or concatenated",
        )


def within_hooks(net: nn.Module) -> Callable[[Tensor], Any]:
    """What of a network is captured: its hooks run around the rewritten one as they do around it."""
    return net.forward if net._forward_hooks or net._forward_pre_hooks else net


def example_and_output(net: nn.Module, example_input: Tensor) -> tuple[Tensor, Tensor]:
    """The example, two samples at least (with one, a batch size cannot be told from a broadcast), and what ``net`` makes of it."""
    with torch.no_grad():
        try:
            expected = within_hooks(net)(example_input)
        except Exception as error:
            raise ExampleError(
                f"{type(net).__name__} fails on an input of shape {tuple(example_input.shape)}, {example_input.dtype}",
                f"{type(error).__name__}: {error}",
                "give an example input as the model takes it: shape (B, ...), dtype, device",
            ) from error
        if not isinstance(expected, Tensor):
            raise CaptureError(
                f"{type(net).__name__}.forward returns {type(expected).__name__}, not one tensor",
                "a learning rule needs the logits (B, C) as the model's only output",
                "wrap the model in a module whose forward returns the logits alone",
            )
        if example_input.shape[0] == 1:
            try:
                pair = example_input.repeat(2, *[1] * (example_input.ndim - 1))
                return pair, within_hooks(net)(pair)
            except Exception:  # a model made for a batch of one
                pass
    return example_input, expected
