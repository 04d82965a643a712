"""What a model does in training only. It is captured in eval mode; a second trace in train mode shows where the two differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, fx, nn

from .constants import INSERTED
from .generators import global_states, kept_generators, own_states
from .operand import given

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


def left_out(net: nn.Module, in_eval: fx.Graph, in_train: fx.Graph, operation: str) -> str:
    """A warning: what the root's own code computes in training alone, which no rewritten network has, and how to keep it.

    Args:
        operation: where the traces part ways, for code that in training only leaves something away.
    """
    calls = ("call_function", "call_method", "call_module")
    evaluated, trained = (Counter(_named(node) for node in graph.nodes if node.op in calls) for graph in (in_eval, in_train))
    more = [name for name in trained - evaluated if name not in ("getattr", "getitem")]
    return (
        f"{type(net).__name__}.forward itself computes something else in training ({', '.join(more) or operation}): a rewritten network "
        "leaves that out, and trains by what it computes in eval mode; to keep it, move that code into a submodule, then kept whole"
    )


def _named(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def differing_modules(in_eval: fx.Graph, in_train: fx.Graph) -> set[str]:
    """Paths of the modules whose own code runs other operations in the two traces, told by their names alone."""
    runs = [{}, {}]  # type: list[dict[str, list[tuple[str, str]]]]
    for found, graph in zip(runs, (in_eval, in_train), strict=True):
        for node in graph.nodes:
            if stack := _inside(node):
                found.setdefault(stack[-1], []).append((node.op, str(node.target)))
    return {path for path in {**runs[0], **runs[1]} if runs[0].get(path) != runs[1].get(path)}


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
def untracked_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, those of the modules that are batch norms in training mode normalise by the batch and leave their statistics as they are."""
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


class TrainingEffects(fx.Interpreter):
    """One forward in training mode that leaves no trace, to see what the modules that a graph calls do there beside their computation.

    Attributes:
        draws: paths of called modules that draw from a generator of torch, numpy or Python.
        writes: paths of the modules, called or inside one, whose own floating-point buffers it changes.
        vectors: the same of parametrisations (a spectral norm's vectors).
    """

    def __init__(self, model: nn.Module, graph: fx.Graph):
        super().__init__(model, graph=graph)
        self.draws: list[str] = []
        self.writes: list[str] = []
        self.vectors: list[str] = []

    def call_module(self, target: fx.node.Target, args: tuple, kwargs: dict) -> object:
        before = self._states(str(target))
        value = super().call_module(target, args, kwargs)
        if self._states(str(target)) != before:
            self.draws.append(str(target))
        return value

    def _states(self, target: str) -> tuple:
        return global_states(self._device), [own_states(module) for module in self.module.get_submodule(target).modules()]

    def see(self, x: Tensor) -> None:
        """Run on ``x`` (two samples at least: with one, a norm could not train). A module that fails in training will say so in the first
        step."""
        self._device = x.device
        buffers = {name: (buffer, buffer.clone()) for name, buffer in self.module.named_buffers()}
        try:
            with torch.no_grad(), kept_generators(), torch.random.fork_rng([x.device] if x.is_cuda else []), suppress(Exception):
                self.run(x if len(x) > 1 else x.repeat(2, *[1] * (x.ndim - 1)))
        finally:
            for name, (buffer, copy) in buffers.items():
                path, _, own = name.rpartition(".")
                module = self.module.get_submodule(path)
                if not torch.equal(given(module._buffers[own]), copy):
                    buffer.copy_(copy)
                    if not isinstance(module, torch.jit.ScriptModule):  # whose buffers cannot be exchanged
                        module._buffers[own] = buffer
                    if path and buffer.is_floating_point():
                        (self.vectors if "parametrizations" in path.split(".") else self.writes).append(path)
