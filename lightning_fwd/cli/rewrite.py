"""``lightning-fwd rewrite``: the graph before and after a rule's passes, inserted nodes marked."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .options import add_model_options, build_method, build_model

if TYPE_CHECKING:
    from torch import fx

    from ..graph.rewritten import RewrittenModel

add_options = add_model_options


def run(options: argparse.Namespace) -> int:
    """Show a model's graph before and after a rule's passes."""
    from ..methods import rewrite

    net, example = build_model(options, batch=2)
    print_rewrite(rewrite(net, build_method(options), example), Console())
    return 0


def print_rewrite(model: RewrittenModel, console: Console) -> None:
    """Print blocks, opaque modules, and the graph before and after the passes."""
    from ..graph.constants import INSERTED

    console.print(f"[bold]{type(model.original).__name__}[/] rewritten by {model.method!r}", highlight=False)
    for block in model.block_runners:
        console.print(f"  block {block.index}: {', '.join(block.layers)}", highlight=False)
    for path, reason in model.opaque.items():
        console.print(f"  [yellow]kept whole[/]: {path} ({reason})", highlight=False)
    before = {node.name for node in model.graph_before.nodes}
    console.print(_table("before", model.graph_before, lambda node: False))
    console.print(_table("after", model.graph, lambda node: node.name not in before))
    for kind, values in (("parameters", model.inserted.named_parameters()), ("buffers", model.inserted.named_buffers())):
        if inserted := [f"{INSERTED}.{name} {tuple(value.shape)}" for name, value in values]:
            console.print(f"inserted {kind}: {', '.join(inserted)}", highlight=False, markup=False, soft_wrap=True)


def _table(title: str, graph: fx.Graph, is_new) -> Table:
    from ..graph.blocks import shape_of

    table = Table(title=title, title_justify="left")
    for column in ("block", "name", "operation", "target", "inputs", "shape"):
        table.add_column(column, overflow="fold")
    for node in graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        table.add_row(
            str(node.meta.get("block", "")), ("+ " if is_new(node) else "") + node.name, node.op, target,
            ", ".join(n.name for n in node.all_input_nodes), str(shape_of(node) or ""), style="bold green" if is_new(node) else None,
        )  # fmt: skip
    return table
