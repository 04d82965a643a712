"""What a model does in training only. It is captured in eval mode; a second trace in train mode shows where the two differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx, nn

from .constants import INSERTED

_FUNCTIONAL_DROPOUT = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
    nn.functional.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def first_difference(in_eval: fx.Graph, in_train: fx.Graph) -> tuple[str | None, str] | None:
    """Where two traces of one model part ways: (path of the innermost module, or None for the root; the operation). None: nowhere.

    Functional dropout, which :func:`insert_dropout_modules` takes care of, is no difference.
    """
    pairs = zip(_described(in_eval), [*_described(in_train), (None, None)], strict=False)
    for (node, described), (other, other_described) in pairs:
        if described != other_described:
            stacks = [_inside(n) for n in (node, other) if n is not None]
            deepest = max(stacks, key=len)
            return deepest[-1] if deepest else None, str(other if other is not None else node)
    return None


def _inside(node: fx.Node) -> list[str]:
    """Paths of the modules whose code made the node, outermost first; the module that a node calls is not one of them."""
    return [path for path in node.meta.get("nn_module_stack") or () if not (node.op == "call_module" and path == node.target)]


def _described(graph: fx.Graph) -> Iterator[tuple[fx.Node, tuple]]:
    for node in graph.nodes:
        settings = dict(node.kwargs)
        if node.target in _FUNCTIONAL_DROPOUT:
            settings.pop("training", None)
        yield node, (node.op, str(node.target), str(node.args), str(settings))


def insert_dropout_modules(graph_module: fx.GraphModule, inserted: nn.Module, in_train: fx.Graph) -> None:
    """Tracing bakes ``F.dropout(x, training=self.training)`` into a constant; put a module there that follows train() and eval()."""
    for node, twin in zip(list(graph_module.graph.nodes), in_train.nodes, strict=False):
        if node.target in _FUNCTIONAL_DROPOUT and twin.kwargs.get("training") and not node.kwargs.get("training"):
            inserted.add_module(node.name, _FUNCTIONAL_DROPOUT[node.target](twin.kwargs["p"]).eval())
            with graph_module.graph.inserting_after(node):
                module_node = graph_module.graph.call_module(f"{INSERTED}.{node.name}", (node.args[0],))
            node.replace_all_uses_with(module_node)
            graph_module.graph.erase_node(node)
    graph_module.recompile()


@contextmanager
def untracked_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode normalise by the batch and leave their running statistics as they are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Inside, ``model`` is in training or in eval mode; then every module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
