"""What of a network is measured and set right, and in which round: each layer waits for all that lie before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Literal

from torch import Tensor, fx, nn
from torch.nn import functional as F

from ...errors import RewriteError
from ...graph.plain_layers import CONVOLUTIONS, is_plain
from ...graph.programs import whole
from ...graph.segment import Segment, ancestors
from ...passes.map_input import INPUT_MAP

Reading = Callable[[Tensor], Tensor]
Kind = Literal["patches", "channels", "single", "features", "norm"]


@dataclass
class Place:
    """The input of a layer.

    Attributes:
        path: of the layer. node: that runs it (dropped once the rounds are compiled).
        kind: what is measured there: whole patches, channels with their covariance, single channels (of a grouped convolution), features
            along the last dimension with their covariance (of the map in front of a network), or for a batch norm the mean and variance of
            each channel.
    """

    path: str
    kind: Kind
    node: fx.Node | None = field(repr=False)

    def readings(self, layer: nn.Module) -> list[Reading]:
        """How the layer reads its input, ``(B, C, ...) -> (N, C)``, one row per position: of whole patches for each place of its kernel."""
        if self.kind == "features":
            return [lambda x: x.flatten(0, -2)]
        if self.kind != "patches":
            return [_rows]
        return [partial(_read_at, layer=layer, offset=offset) for offset in product(*map(range, layer.kernel_size))]


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def _read_at(x: Tensor, layer: nn.Module, offset: tuple[int, ...]) -> Tensor:
    """What one place of a kernel meets, output position by output position, padding included."""
    x = F.pad(x, layer._reversed_padding_repeated_twice)
    for dim, (start, kernel, dilation, stride) in enumerate(
        zip(offset, layer.kernel_size, layer.dilation, layer.stride, strict=True), start=2
    ):
        last = (x.shape[dim] - dilation * (kernel - 1) - 1) // stride * stride
        x = x[(slice(None),) * dim + (slice(start * dilation, start * dilation + last + 1, stride),)]
    return _rows(x)


@dataclass
class Round:
    """Places that are measured in the same pass, everything before them being final.

    Attributes:
        places: in order of execution. forward: ``(model, x) -> (logits, the input of each place)``.
    """

    places: list[Place]
    forward: Segment


def find_convolutions(graph: fx.Graph, root: nn.Module, patches: int) -> list[Place]:
    """The convolutions that a map may be folded into, in order of execution; the first ``patches`` of them by whole patches.

    Left out are subclasses and parametrised layers, whose weight is not all they compute with, and layers that are called twice or share a
    weight.
    """
    calls = Counter(n.target for n in graph.nodes if n.op == "call_module")
    owners = Counter(id(p) for _, p in root.named_parameters(remove_duplicate=False))
    found: list[Place] = []
    for node in graph.nodes:
        layer = root.get_submodule(node.target) if node.op == "call_module" else None
        if not is_plain(layer, *CONVOLUTIONS) or calls[node.target] > 1 or owners[id(layer.weight)] > 1:
            continue
        found.append(Place(node.target, _kind(layer, len(found) < patches), node))
    return found


def find_input_map(graph: fx.Graph, root: nn.Module) -> list[Place]:
    """The map in front of the network (:func:`lightning_fwd.map_input`), if there is one."""
    return [
        Place(n.target, "features", n)
        for n in graph.nodes
        if n.op == "call_module" and n.target == INPUT_MAP and is_plain(root.get_submodule(n.target), nn.Linear)
    ]


def _kind(layer: nn.Module, early: bool) -> Kind:
    if layer.groups > 1:
        return "single"
    return "patches" if early and layer.padding_mode == "zeros" and any(k > 1 for k in layer.kernel_size) else "channels"


def find_norms(graph: fx.Graph, root: nn.Module, opaque: Mapping[str, str]) -> list[Place]:
    """The batch norms with running statistics.

    Raises:
        RewriteError: one is called twice, or sits inside a module that is kept whole.
    """
    nodes = [n for n in graph.nodes if n.op == "call_module" and _is_batch_norm(root.get_submodule(n.target))]
    paths = [n.target for n in nodes]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise RewriteError(
            f"batch norm {twice[0]!r} is called twice",
            "it has one set of statistics for two kinds of activation, and which it should take is unclear",
            "give each call a norm of its own",
        )
    hidden = [p for p, m in root.named_modules() if _is_batch_norm(m) and any(p.startswith(f"{o}.") for o in opaque)]
    if hidden:
        raise RewriteError(
            f"the statistics of {', '.join(hidden)} cannot be measured",
            "; ".join(f"{path} is kept whole: {reason}" for path, reason in opaque.items()),
            "take the control flow out of that module",
        )
    return [Place(n.target, "norm", n) for n in nodes]


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats


def in_rounds(graph: fx.Graph, places: list[Place], counting: bool = False) -> list[Round]:
    """Divide the places so that each is measured after all those before it are final: two that do not depend on each other share a pass.

    ``counting``: a round without places comes first.
    """
    order = {n: i for i, n in enumerate(graph.nodes)}
    level: dict[fx.Node, int] = {}
    for place in sorted(places, key=lambda p: order[p.node]):
        before = ancestors([place.node.args[0]])
        level[place.node] = 1 + max((level[n] for n in level if n in before), default=0)
    nodes, inputs, logits = whole(graph)
    rounds = [Round([], Segment(nodes, inputs, [*logits]))] if counting else []
    for number in range(1, max(level.values(), default=0) + 1):
        now = sorted((p for p in places if level[p.node] == number), key=lambda p: order[p.node])
        rounds.append(Round(now, Segment(nodes, inputs, [*logits, *(p.node.args[0] for p in now)])))
    for place in places:
        place.node = None  # a graph is not copied with the model that holds the rounds
    return rounds


def shift_survives(graph: fx.Graph, root: nn.Module, place: Place) -> bool:
    """Whether a layer can bear the constant that aligning adds: it has a bias, or a batch norm follows, recomputed next, which takes it
    out."""
    layer = root.get_submodule(place.path)
    return layer.bias is not None or all(
        user.op == "call_module" and _is_batch_norm(root.get_submodule(user.target)) for user in place.node.users
    )
