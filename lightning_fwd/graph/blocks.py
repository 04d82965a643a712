"""Find the blocks of a captured graph: stretches between points where one tensor carries everything.

A *cut point* is a node after which only its own value is still needed. Residual and branched parts have no cut point inside, so they
stay whole. A block holds at least one layer with parameters and runs up to the next one, so that normalisation,
activation and pooling belong to the layer that feeds them.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import fx, nn

from ..errors import RewriteError
from .constants import is_constant
from .operand import known_shape, module_of, operand, target_path

_DESCRIPTIONS = frozenset(
    "dtype device shape ndim is_cuda layout requires_grad size dim numel stride type element_size is_floating_point is_contiguous".split()
)
_LIKENED = frozenset("to type_as expand_as view_as reshape_as".split())
Granularity = str | int | Sequence[str]


@dataclass
class Block:
    """One unit of local learning.

    Attributes:
        index: position in the chain, 0 first.
        name: path of its first layer with parameters, or of the module the user named.
        layers: paths of its layers with parameters, in order of execution.
        nodes: its nodes in the captured graph.
        output: the node whose value leaves the block.
    """

    index: int
    name: str
    layers: tuple[str, ...]
    nodes: list[fx.Node] = field(repr=False)
    output: fx.Node = field(repr=False)


def parameters_of(node: fx.Node, root: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that ``node`` itself uses, by their name in ``root``: a module's own, and those in the constants it is given."""
    return {} if is_constant(node) else _parameters_in(node, root)


def _parameters_in(node: fx.Node, root: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    if node.op == "call_module":
        module = module_of(node, root)
        if hasattr(module, "uses"):  # inserted by a pass in the place of a layer, whose parameters it runs
            found = {name: operator.attrgetter(name)(root) for name in cast(Sequence[str], module.uses)}
        else:
            found = {f"{node.target}.{name}": p for name, p in module.named_parameters()}
    elif node.op == "get_attr" and isinstance(value := operator.attrgetter(target_path(node))(root), nn.Parameter):
        found = {target_path(node): value}
    for given in _read_for_values(node):
        if is_constant(given):
            found |= _parameters_in(given, root)
    return found


def _read_for_values(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node less those of which it only asks what they are like (``weight.dtype``, the second of ``x.to(weight)``)."""
    name = node.args[1] if node.target is getattr else node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name in _DESCRIPTIONS or str(name).startswith("new_") or str(name).endswith("_like"):
        return []
    return [i for i in node.all_input_nodes if i is node.args[0]] if name in _LIKENED else node.all_input_nodes


def canonical_names(root: nn.Module) -> dict[str, str]:
    """Every name of every parameter to the one that ``named_parameters`` gives it; tied weights have several."""
    first = {parameter: name for name, parameter in root.named_parameters()}
    return {name: first[parameter] for name, parameter in root.named_parameters(remove_duplicate=False)}


def layer_of(node: fx.Node, root: nn.Module) -> str | None:
    """Path of the layer with parameters that ``node`` runs (a functional layer: its parameters' owner, else their first name), or None."""
    names = list(parameters_of(node, root))
    if not names:
        return None
    if node.op == "call_module" and names[0].startswith(f"{node.target}."):
        return target_path(node)
    return names[0].rpartition(".")[0] or names[0]


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises, or is an activation with a slope to learn: it belongs to the layer before it, never starts a block."""
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of a node's value for the example input, or None where it is not one tensor."""
    meta = node.meta.get("tensor_meta")
    return None if meta is None or not hasattr(meta, "shape") else tuple(meta.shape)


def units_last(nodes: Sequence[fx.Node], root: nn.Module) -> bool:
    """Whether the units of what the last of ``nodes`` gives lie in its last dimension, as behind a linear layer over tokens ``(B, T, n)``.

    Behind a convolution, and in a flat activation, they lie in dimension 1.
    """
    shape = known_shape(shape_of(nodes[-1]))
    for node in reversed(nodes):
        weights = [p for p in parameters_of(node, root).values() if p.ndim > 1]
        if weights:
            return len(shape) > 2 and all(w.ndim == 2 for w in weights) and any(shape[-1] in w.shape for w in weights)
    return False


def cut_points(graph: fx.Graph) -> list[fx.Node]:
    """Nodes after which their own tensor is all that later nodes need (parameters aside)."""
    _rederive_batch_sizes(graph)
    nodes = [n for n in graph.nodes if not is_constant(n)]
    order = {n: i for i, n in enumerate(nodes)}
    last_use = {n: max((order[u] for u in n.users), default=-1) for n in nodes}
    cuts, reach = [], -1  # reach: the last use of any value made before this node
    for i, node in enumerate(nodes):
        if node.op == "output":
            break
        if reach <= i and node.op != "placeholder" and _leading(node) is not None and _leading(node) == _leading(nodes[0]):
            cuts.append(node)
        reach = max(reach, last_use[node])
    return cuts


def _rederive_batch_sizes(graph: fx.Graph) -> None:
    """``b = x.size(0)`` at the top, used in ``view(b, -1)`` at the end, would tie the whole net into one block.

    Where the tensor being reshaped has the same leading size as the one measured, its own size is as good.
    """
    for node in list(graph.nodes):
        measured = _measured_by(node)
        if measured is None or _leading(measured) is None:
            continue
        for user in list(node.users):
            source = user.args[0] if user.args else None
            if (
                isinstance(source, fx.Node)
                and source is not measured
                and not is_constant(source)
                and _leading(source) == _leading(measured)
            ):
                with graph.inserting_before(user):
                    own = graph.call_method("size", (source, 0))
                user.replace_input_with(node, own)
        while node is not measured and not node.users:
            unused, node = node, operand(node)
            graph.erase_node(unused)


def _leading(node: fx.Node) -> tuple[int, bool] | None:
    """Length of a tensor's first dimension, and whether it changes with the batch; None where it has no dimension."""
    shape = shape_of(node)
    return (shape[0], node.meta.get("batch_first", True)) if shape else None


def _measured_by(node: fx.Node) -> fx.Node | None:
    """The tensor whose leading size ``node`` is: ``x.size(0)``, ``x.size()[0]`` or ``x.shape[0]``."""
    if node.op == "call_method" and node.target == "size" and node.args[1:] == (0,):
        return operand(node)
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        sizes = operand(node)
        if (sizes.op, sizes.target, sizes.args[1:]) in (("call_method", "size", ()), ("call_function", getattr, ("shape",))):
            return operand(sizes)
    return None


def find_blocks(graph_module: fx.GraphModule, granularity: Granularity = "layer") -> list[Block]:
    """Divide a captured graph into blocks.

    Args:
        granularity: ``"layer"`` (the finest: every layer with parameters that a cut point allows), an int (that many
            blocks, balanced by number of layers), or a sequence of module paths (a block ends with each one named).

    Raises:
        RewriteError: no layer has parameters, or a named module's output is not a cut point.
    """
    graph, pieces = graph_module.graph, []
    cuts = set(cut_points(graph))
    current: list[fx.Node] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or is_constant(node):
            continue
        current.append(node)
        if node in cuts:
            pieces.append(current)
            current = []
    if current:  # after the last cut point, e.g. shape arithmetic of a branched end
        pieces.append(current)
    groups = _starting_at_layers(pieces, graph_module)
    if not groups:
        raise RewriteError(
            f"{type(graph_module).__name__} has no layer with parameters",
            "there is nothing to train",
            "check the model",
        )
    if isinstance(granularity, int):
        groups, names = _merge_evenly(groups, granularity), None
    elif granularity != "layer":
        groups, names = _merge_by_name(groups, list(granularity), graph_module)
    else:
        names = None
    blocks = []
    for index, nodes in enumerate(groups):
        layers = tuple(dict.fromkeys(p for n in nodes if (p := layer_of(n, graph_module))))
        own = [path for path in layers if not _is_norm_path(path, graph_module)]
        name = names[index] if names and names[index] else own[0]
        for node in nodes:
            node.meta["block"] = index
        blocks.append(Block(index, name, layers, nodes, nodes[-1]))
    return blocks


def _starting_at_layers(pieces: list[list[fx.Node]], root: nn.Module) -> list[list[fx.Node]]:
    """Join each piece without a layer of its own (activation, norm, pooling) to the block before it."""
    groups: list[list[fx.Node]] = []
    leading: list[fx.Node] = []
    for piece in pieces:
        if any(p and not _is_norm_path(p, root) for p in (layer_of(n, root) for n in piece)):
            groups.append(leading + piece)
            leading = []
        elif groups:
            groups[-1].extend(piece)
        else:
            leading += piece
    return groups


def _merge_evenly(groups: list[list[fx.Node]], count: int) -> list[list[fx.Node]]:
    if not 1 <= count <= len(groups):
        raise RewriteError(
            f"granularity={count}: the model divides into at most {len(groups)} blocks",
            "a block needs a layer with parameters and ends where one tensor carries everything",
            f"choose 1 to {len(groups)}",
        )
    edges = [round(i * len(groups) / count) for i in range(count + 1)]
    return [sum(groups[a:b], []) for a, b in zip(edges, edges[1:], strict=False)]


def _merge_by_name(groups: list[list[fx.Node]], names: list[str], root: nn.Module):
    """A block ends with each named module; what follows the last one is a block of its own."""
    layers = [[p for n in nodes if (p := layer_of(n, root)) and not _is_norm_path(p, root)] for nodes in groups]
    ends = []
    for name in names:
        holds = [[p == name or p.startswith(name + ".") for p in paths] for paths in layers]
        inside = [i for i, under in enumerate(holds) if any(under)]
        if not inside or not all(holds[inside[-1]]):
            raise RewriteError(
                f"granularity: a block cannot end with module {name!r}",
                "it has no parameters, or other layers run beside it with no cut point between",
                f"the finest blocks are: {'; '.join(', '.join(paths) for paths in layers)}",
            )
        ends.append(inside[-1])
    if ends != sorted(set(ends)):
        raise RewriteError(f"granularity: {names} are not in order of execution", "", "list the modules first to last")
    edges = [0, *[e + 1 for e in ends]]
    if edges[-1] < len(groups):
        edges, names = edges + [len(groups)], [*names, layers[edges[-1]][0]]
    return [sum(groups[a:b], []) for a, b in zip(edges, edges[1:], strict=False)], names


def _is_norm_path(path: str, root: nn.Module) -> bool:
    try:
        return is_norm(root.get_submodule(path))
    except AttributeError:  # a functional layer, named after its parameters
        return False
