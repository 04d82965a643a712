"""What of a training graph is run: all of it, what comes before and in the last block, or one block."""

from __future__ import annotations

from typing import cast

from torch import Tensor, fx, nn

from .blocks import Block, parameters_of
from .constants import is_constant, is_inserted
from .module_table import trained_at
from .segment import Segment


class BlockRunner:
    """One block of the training graph: ``outputs = block(model, h, *extra)``.

    The first output is the block's activation; the others are what passes marked with ``meta["emit"]`` (goodness logits).
    """

    def __init__(self, model: nn.Module, block: Block):
        nodes = [n for n in cast(fx.Graph, model.graph).nodes if n.meta.get("block") == block.index]
        inside = set(nodes)
        inputs = list(dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in inside and not is_constant(i)))
        emitted = [n for n in nodes if n.meta.get("emit")]
        self.index, self.name, self.layers = block.index, block.name, block.layers
        self.inputs = [n.name for n in inputs]
        self.segment = Segment(nodes, inputs, [block.output, *emitted])
        self.parameter_names = list(dict.fromkeys(p for n in nodes for p in parameters_of(n, model)))
        self._paths = [(name, tuple(name.split("."))) for name in self.parameter_names]

    def __call__(self, model: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.segment(model, *inputs)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Its trainable parameters by name, inserted heads included."""
        return trained_at(model, self._paths)


def modules_of(net: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    """The modules of ``net`` that its graph calls or reads, by path."""
    called = [n.target for n in graph.nodes if n.op == "call_module"]
    read = [n.target.rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"]
    return {path: net.get_submodule(path) for path in [*called, *read] if path and not is_inserted(path)}


def output_shape(graph_module: fx.GraphModule) -> tuple[int, ...]:
    """Of a captured graph, for its example input."""
    output = next(n for n in graph_module.graph.nodes if n.op == "output")
    return tuple(output.args[0].meta["tensor_meta"].shape)


def around_last_block(graph: fx.Graph, plan: list[Block]) -> tuple[Segment, Segment]:
    """What runs before the last block, and the last block."""
    nodes, inputs, output = whole(graph)
    last = [n for n in nodes if n.meta.get("block") == plan[-1].index]
    before = [n for n in nodes if n not in last]
    entry = [plan[-2].output] if len(plan) > 1 else inputs
    return Segment(before, inputs, entry), Segment(last, entry, output)


def copy_of(graph: fx.Graph) -> fx.Graph:
    """The same nodes in a graph of their own."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def whole(graph: fx.Graph) -> tuple[list[fx.Node], list[fx.Node], list[fx.Node]]:
    """Its nodes without placeholders and output, its placeholders, and what it gives."""
    nodes = list(graph.nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    return [n for n in nodes if n.op not in ("placeholder", "output")], inputs, [nodes[-1].args[0]]
