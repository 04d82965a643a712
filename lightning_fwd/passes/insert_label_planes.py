"""Forward-Forward's label beside the input: planes of its own that the first layer sees."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from ..errors import RewriteError
from ..graph.blocks import cut_points, layer_of, shape_of, units_last
from ..graph.constants import INSERTED
from ..graph.rewritten import RewrittenModel


def insert_label_planes(model: RewrittenModel, make_planes: Callable[[int, bool], nn.Module], repeat: Callable) -> None:
    """Insert ``z = planes(z, label)`` behind the first layer; ``label`` ``(kB, C)`` becomes a second input of the graph.

    Behind a norm of each channel by itself (instance norm), if one follows: it would take out what is the same at all positions.

    Args:
        make_planes: from the number of channels (units) of the first layer's output, and whether they lie in its last dimension, to the
            module.
        repeat: ``(x, label) -> (kB, ...)``, used on the input itself where more than the first layer reads it (a residual first block).

    Raises:
        RewriteError: the first layer gives several tensors.
    """
    graph = model.graph
    x = next(n for n in graph.nodes if n.op == "placeholder")
    layer = next(n for n in graph.nodes if layer_of(n, model))
    if shape_of(layer) is None:
        raise RewriteError(
            f"label planes have no place behind {layer_of(layer, model)}",
            "the first layer gives several tensors",
            "use label='overlay' or 'pattern'",
        )
    z = next((u for u in layer.users if len(layer.users) == 1 and _normalises_each_channel(u, model)), layer)
    alone = z in cut_points(graph)
    with graph.inserting_after(x):
        label = graph.placeholder("label")
    if not alone:
        with graph.inserting_after(label):
            repeated = graph.call_function(repeat, (x, label))
        repeated.meta.update(tensor_meta=x.meta["tensor_meta"], block=0)
        x.replace_all_uses_with(repeated, delete_user_cb=lambda user: user is not repeated)
    _add_behind(model, layer, z, label, make_planes, "label_embedding")


def insert_label_context(model: RewrittenModel, make_planes: Callable[[int, bool], nn.Module], repeat: Callable) -> None:
    """Insert ``z = planes(z, label)`` behind the first layer of every block but the last, each with weights of its own: a bias that depends
    on the
    label. The samples themselves stay as they are, in all blocks. As :func:`insert_label_planes`.

    Raises:
        RewriteError: the first layer of a block gives several tensors.
    """
    insert_label_planes(model, make_planes, repeat)
    label = next(n for n in model.graph.nodes if n.op == "placeholder" and n.name == "label")
    for block in model.plan[1:-1]:
        layer = next((n for n in block.nodes if layer_of(n, model)), None)
        if layer is None:
            continue
        if shape_of(layer) is None:
            raise RewriteError(
                f"a label has no place behind {layer_of(layer, model)}",
                "it gives several tensors",
                "use label='planes', in the first block only",
            )
        z = next((u for u in layer.users if len(layer.users) == 1 and _normalises_each_channel(u, model)), layer)
        _add_behind(model, layer, z, label, make_planes, f"label_embedding_{block.index}")


def _add_behind(model: RewrittenModel, layer: fx.Node, z: fx.Node, label: fx.Node, make_planes: Callable, name: str) -> None:
    """``planes(z, label)`` in the place of z, the value behind ``layer``."""
    last = units_last([layer], model)
    planes = make_planes(shape_of(z)[-1 if last else 1], last)
    model.inserted.add_module(name, planes.to(model.example_input.device, z.meta["tensor_meta"].dtype))
    with model.graph.inserting_after(z):
        added = model.graph.call_module(f"{INSERTED}.{name}", (z, label))
    added.meta.update(tensor_meta=z.meta["tensor_meta"], block=z.meta.get("block", 0))
    for user in [u for u in z.users if u is not added]:
        user.replace_input_with(z, added)
    for block in model.plan:
        if block.output is z:
            block.output = added


def _normalises_each_channel(node: fx.Node, model: RewrittenModel) -> bool:
    module = model.get_submodule(node.target) if node.op == "call_module" else None
    groups = isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels
    return groups or isinstance(module, nn.modules.instancenorm._InstanceNorm)
