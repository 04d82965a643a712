"""The way back of the error as layers of the network itself: what an NPU that only infers can run.

With frozen weights, the gradient of every channel's offset and gain is a function of image and error that needs constants only. A
convolution's way back is a convolution with transposed, flipped weights; a ReLU's is a product with its mask; the sum over positions is a
depthwise convolution of ones over the whole map. So image and error in, gradients out, is one more network to compile.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import hardtanh, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightning_fwd.graph.blocks import shape_of

from ..errors import ExportError
from ..locate import line_of
from .lower import MASK_GAIN
from .phases import Strided, interleave, padding_of
from .respell import WRITTEN
from .taps import Tapped, insert_taps, stored_by

#: prefix of what is added to the network, and name of its second input
BACK, ERROR = "lfwd_back", "lfwd_error"
#: names of what is given by position
_NAMES: dict[object, tuple[str, ...]] = {
    pad: ("input", "pad", "mode", "value"),
    torch.add: ("input", "other"),
    operator.add: ("input", "other"),
    nn.functional.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}


@dataclass(frozen=True)
class WithBackward:
    """A copy of the network that takes ``(image, error)`` and returns ``(logits, features, *taps, *bias sums, *scale sums)``.

    ``error (B, F, 1, 1)`` is the loss's gradient at the features, up to a factor. Batch norms are folded into their convolutions.

    Attributes:
        tapped: what learns, and in which order taps and sums stand.
        gains: by layer whose error goes further down: the path of the 1x1 convolution by which the error is to be multiplied by the
            layer's gain, channel by channel.
        window: positions that the last pooling averages: the error of each is that part of the one at the features, the sums are that many
            times too large.
        ones: paths of all added layers of weight 1: sums and gains.
    """

    tapped: Tapped
    gains: dict[str, str]
    window: int
    ones: tuple[str, ...]

    @property
    def module(self) -> fx.GraphModule:
        return self.tapped.module

    def compiled_weight(self, path: str) -> float:
        """The weight of a layer of :attr:`ones` while :meth:`distinct`."""
        return 1 + (self.ones.index(path) + 1) / 1024

    @contextmanager
    def distinct(self) -> Iterator[None]:
        """Layers of ones with weights a little apart, to be compiled: the compiler lets equal layers share their records."""
        weights = {path: self.module.get_submodule(path).weight for path in self.ones}
        for path, weight in weights.items():
            nn.init.constant_(weight, self.compiled_weight(path))
        try:
            yield
        finally:
            for weight in weights.values():
                nn.init.ones_(weight)


def insert_backward(net: nn.Module, example: Tensor) -> WithBackward:
    """Trace a classifier; add taps, and the way back to the lowest convolution under batch norm.

    Per layer ``(B, C)`` come the sums over positions of the error at its output, and of error times output: the gradients of an offset and
    of a gain about zero.

    Raises:
        CaptureError, ExportError: see :func:`.insert_taps`; or the way back leads through a layer that is not known here.
    """
    tapped = insert_taps(net, example)
    return _Backward(tapped, net).run()


class _Backward:
    """One walk up the graph, from the features to the lowest layer that learns."""

    def __init__(self, tapped: Tapped, net: nn.Module):
        self._tapped, self._module, self._graph, self._net = tapped, tapped.module, tapped.module.graph, net
        self._errors: dict[fx.Node, list[fx.Node | Strided]] = {}  # of what a node computed: their sum
        self._stored = {node.target: stored_by(node, self._module) for node in self._convolutions() if node.target in tapped.layers}
        self._sums: dict[str, tuple[fx.Node, fx.Node]] = {}
        self._gains: dict[str, str] = {}
        self._all_ones: list[str] = []
        self._window = 1

    def run(self) -> WithBackward:
        (image,) = (node for node in self._graph.nodes if node.op == "placeholder")
        with self._graph.inserting_after(image):
            error = self._graph.placeholder(ERROR)
        self._fold()
        (result,) = self._graph.find_nodes(op="output")
        logits, features, *taps = result.args[0]
        needed, order = self._needed(), [node for node in self._graph.nodes if node is not result]
        self._errors[features] = [error]
        with self._graph.inserting_before(result):
            for node in reversed(order):
                if node in self._errors and node in needed and node is not error:
                    self._step(node, self._errors.pop(node), needed)
            sums = [self._sums[layer] for layer in self._tapped.layers]
            flat = [self._call(torch.flatten, node, 1) for kind in zip(*sums, strict=True) for node in kind]
        result.args = ((logits, features, *taps, *flat),)
        self._put_forward_last(result, flat)
        self._graph.lint()
        self._module.recompile()
        return WithBackward(self._tapped, self._gains, self._window, tuple(self._all_ones))

    def _put_forward_last(self, result: fx.Node, sums: list[fx.Node]) -> None:
        """What only logits, features and taps need, behind the sums: the compiler computes the last outputs first."""
        ancestors, waiting = set(), list(sums)
        while waiting:
            node = waiting.pop()
            if node not in ancestors:
                ancestors.add(node)
                waiting += node.all_input_nodes
        for node in [n for n in self._graph.nodes if n not in ancestors and n is not result and n.op != "placeholder"]:
            result.prepend(node)

    def _convolutions(self) -> list[fx.Node]:
        return [n for n in self._graph.nodes if n.op == "call_module" and isinstance(self._module.get_submodule(n.target), nn.Conv2d)]

    def _fold(self) -> None:
        """Batch norms into the convolutions before them."""
        for node in self._convolutions():
            if node.target in self._tapped.layers:
                (norm,) = node.users
                fused = fuse_conv_bn_eval(self._module.get_submodule(node.target), self._module.get_submodule(norm.target))
                self._module.set_submodule(node.target, fused)
                if self._stored[node.target] is norm:
                    self._stored[node.target] = node
                norm.replace_all_uses_with(node)
                self._graph.erase_node(norm)

    def _needed(self) -> set[fx.Node]:
        """What depends on a layer that learns, that layer included."""
        needed: set[fx.Node] = set()
        for node in self._graph.nodes:
            if node.target in self._stored or any(n in needed for n in node.all_input_nodes):
                needed.add(node)
        return needed

    def _step(self, node: fx.Node, errors: list[fx.Node | Strided], needed: set[fx.Node]) -> None:
        """Hand the errors at a node's output, whose sum is its error, on to its inputs."""
        kind = self._module.get_submodule(node.target) if node.op == "call_module" else node.target
        given = _arguments(node, kind)
        if kind is pad:
            self._pad(node, given, errors)
            return
        error = self._sum(errors, tuple(shape_of(node)[2:]))
        if isinstance(kind, nn.Conv2d):
            self._convolution(node, kind, error, needed)
        elif isinstance(kind, nn.ReLU):
            self._add(given["input"], self._call(torch.mul, self._mask(node), error))
        elif isinstance(kind, nn.Identity | nn.Dropout):
            self._add(given["input"], error)
        elif isinstance(kind, nn.Flatten):
            if set(shape_of(given["input"])[2:]) - {1}:
                raise self._unknown(node, "the way back must begin at a pooling to one position, right behind a ReLU")
            self._add(given["input"], error)
        elif isinstance(kind, nn.AdaptiveAvgPool2d):
            self._pool(node, given["input"], shape_of(given["input"])[2:], error)
        elif isinstance(kind, nn.AvgPool2d) or kind is nn.functional.avg_pool2d:
            settings = vars(kind) if isinstance(kind, nn.AvgPool2d) else given
            if _pair(settings.get("padding", 0)) != (0, 0) or settings.get("ceil_mode") or settings.get("divisor_override"):
                raise self._unknown(node, "its pooling is padded, rounds up or has a divisor of its own")
            self._pool(node, given["input"], settings["kernel_size"], error)
        elif kind in (torch.add, operator.add):
            self._add_up(node, given, error, needed)
        else:
            raise self._unknown(node, "known are convolutions under batch norm, ReLU, sums, padding and pooling to one position")

    def _unknown(self, node: fx.Node, why: str) -> ExportError:
        written = node.meta.get(WRITTEN, (node.op, node.name, node.target))
        line, name = line_of(self._net, *written), getattr(written[-1], "__name__", written[-1])
        return ExportError(
            f"no way back through {name} of {type(self._net).__name__}{f', {line}' if line else ''}",
            why,
            "write it in what is known, or train statistics and head (--train head), which need no way back",
        )

    def _pad(self, node: fx.Node, given: dict[str, Any], errors: list[fx.Node | Strided]) -> None:
        widths = (*given["pad"], 0, 0, 0, 0)
        if given.get("mode", "constant") != "constant" or min(widths) < 0 or any(widths[4:]):
            raise self._unknown(node, "it pads rows and columns with something else than a constant, cuts them away, or pads other axes")
        left, top = widths[0], widths[2]
        size, below = shape_of(node)[2:], shape_of(given["input"])[2:]
        for part in errors:
            cut = part.cut((top, left)) if isinstance(part, Strided) else self._fitted(part, size, below, (top, left))
            self._add(given["input"], cut)

    def _add_up(self, node: fx.Node, given: dict[str, Any], error: fx.Node, needed: set[fx.Node]) -> None:
        if given.get("alpha", 1) != 1:
            raise self._unknown(
                node, f"it adds {given['alpha']:g} times its second operand; a gain of the batch norm before it does the same"
            )
        for part in (given["input"], given["other"]):
            if part in needed:
                if shape_of(part) != shape_of(node):
                    raise self._unknown(node, f"it spreads a map of {tuple(shape_of(part)[1:])} over one of {tuple(shape_of(node)[1:])}")
                self._add(part, error)

    def _convolution(self, node: fx.Node, layer: nn.Conv2d, error: fx.Node, needed: set[fx.Node]) -> None:
        if node.target in self._stored:
            product = self._call(torch.mul, error, self._stored[node.target])
            self._sums[node.target] = tuple(
                self._ones(f"{kind}.{node.target}", layer.out_channels, shape_of(node)[2:], of)
                for kind, of in (("bias", error), ("scale", product))
            )
        below = node.args[0]
        if below not in needed:
            return
        if node.target in self._stored:
            name = f"gain.{node.target}"
            error = self._ones(name, layer.out_channels, (1, 1), error)
            self._gains[node.target] = _path(name)
        if _pair(layer.dilation) != (1, 1) or layer.groups not in (1, layer.out_channels) or layer.groups not in (1, layer.in_channels):
            raise self._unknown(node, "it is dilated or has groups of several channels")
        if layer.padding_mode != "zeros":
            raise self._unknown(node, f"it pads by padding_mode={layer.padding_mode!r}, and known are zeros")
        size = tuple(shape_of(node)[2:])
        if set(layer.stride) != {1}:
            self._add(below, Strided(str(node.target), layer, error, size))
            return
        back_layer = _transposed(layer)
        back = self._layer(f"weight.{node.target}", back_layer, error)
        reach = list(zip(size, layer.kernel_size, padding_of(layer), back_layer.padding, strict=True))
        have = [n + 2 * q - (k - 1) for n, k, _, q in reach]
        self._add(below, self._fitted(back, have, shape_of(below)[2:], [p + q - (k - 1) for _, k, p, q in reach]))

    def _sum(self, errors: list[fx.Node | Strided], size: tuple[int, ...]) -> fx.Node:
        """One map; what comes from convolutions with a stride is summed phase by phase, as long as it is small."""
        maps: list[fx.Node] = [error for error in errors if isinstance(error, fx.Node)]
        strided = [error for error in errors if isinstance(error, Strided)]
        for stride in sorted({error.layer.stride for error in strided}):
            maps.append(self._interleaved([error for error in strided if error.layer.stride == stride], stride, size))
        return reduce(lambda a, b: self._call(torch.add, a, b), maps)

    def _interleaved(self, errors: list[Strided], stride: tuple[int, int], size: tuple[int, ...]) -> fx.Node:
        count = [-(-n // step) for n, step in zip(size, stride, strict=True)]  # positions of a phase, the longest
        phases: dict[tuple[int, int], fx.Node] = {}
        for part in errors:
            error = self._fitted(part.error, part.size, [max(pair) for pair in zip(part.size, count, strict=True)])
            for phase, layer in part.phases().items():
                of = self._layer(f"weight.{part.path}.{phase[0]}{phase[1]}", layer, error)
                of = self._fitted(of, [max(pair) for pair in zip(part.size, count, strict=True)], count)
                phases[phase] = self._call(torch.add, phases[phase], of) if phase in phases else of
        whole = [n * step for n, step in zip(count, stride, strict=True)]
        return self._fitted(interleave(self._graph, phases, stride), whole, size)

    def _pool(self, node: fx.Node, relu: fx.Node, window: int | Sequence[int], error: fx.Node) -> None:
        """The pooled map is a ReLU's: within the window the error of every position is the same, times the ReLU's mask."""
        while self._is(relu, nn.Identity, nn.Dropout):
            relu = relu.args[0]
        if tuple(shape_of(node)[2:]) != (1, 1) or not self._is(relu, nn.ReLU):
            raise self._unknown(node, "the way back must begin at a pooling to one position, right behind a ReLU")
        size, window = shape_of(relu)[2:], _pair(window)
        self._window = window[0] * window[1]
        mask = self._fitted(self._mask(relu), size, window)
        self._add(relu.args[0], self._fitted(self._call(torch.mul, mask, error), window, size))

    def _is(self, node: fx.Node, *kinds: type[nn.Module]) -> bool:
        return node.op == "call_module" and isinstance(self._module.get_submodule(node.target), kinds)

    def _mask(self, relu: fx.Node) -> fx.Node:
        """1 where a ReLU let pass, else 0."""
        return self._call(hardtanh, self._call(torch.mul, relu, MASK_GAIN), 0.0, 1.0)

    def _add(self, node: fx.Node, error: fx.Node | Strided) -> None:
        self._errors.setdefault(node, []).append(error)

    def _fitted(self, node: fx.Node, have: Sequence[int], want: Sequence[int], begin: Sequence[int] = (0, 0)) -> fx.Node:
        """A map of ``have`` positions cut or filled up with zeros to ``want`` of them, after ``begin`` are cut away."""
        for dim, (n, m, first) in enumerate(zip(have, want, begin, strict=True), start=2):
            if first or n > m:
                node = self._call(operator.getitem, node, (slice(None),) * dim + (slice(first, first + min(m, n - first)),))
        missing = [m - n + first for n, m, first in zip(have, want, begin, strict=True)]
        if any(m > 0 for m in missing):
            node = self._call(pad, node, (0, max(missing[1], 0), 0, max(missing[0], 0)))
        return node

    def _layer(self, name: str, layer: nn.Module, of: fx.Node) -> fx.Node:
        self._module.add_submodule(_path(name), layer)
        return self._graph.call_module(_path(name), (of,))

    def _ones(self, name: str, channels: int, size: Sequence[int], of: fx.Node) -> fx.Node:
        """Sums over a map of that size, every channel by itself."""
        layer = nn.Conv2d(channels, channels, tuple(size), groups=channels).requires_grad_(False)
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        self._all_ones.append(_path(name))
        return self._layer(name, layer, of)

    def _call(self, function: Callable, *args: object) -> fx.Node:
        return self._graph.call_function(function, args)


def _arguments(node: fx.Node, kind: object) -> dict[str, Any]:
    """By name, however they were given."""
    names = _NAMES.get(kind, ("input",)) if node.op == "call_function" else ("input",)
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _transposed(layer: nn.Conv2d) -> nn.Conv2d:
    """From the error at a convolution's output, spread by its stride, to that at its input."""
    padding = tuple(max(k - 1 - p, 0) for k, p in zip(layer.kernel_size, padding_of(layer), strict=True))
    back = nn.Conv2d(layer.out_channels, layer.in_channels, layer.kernel_size, padding=padding, groups=layer.groups)
    flipped = layer.weight.detach().flip(2, 3)
    back.weight.data = flipped.clone() if layer.groups > 1 else flipped.transpose(0, 1).contiguous()
    nn.init.zeros_(back.bias)
    return back.requires_grad_(False)


def _path(name: str) -> str:
    """Of an added layer."""
    return f"{BACK}.{name.replace('.', '_')}"


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
