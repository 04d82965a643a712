"""The command ``lightning-fwd cost``."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from ..graph.errors import LightningFwdError
from .book import print_book
from .ledger import step_cost
from .plot import plot_memory
from .report import CostReport


def cost_command(
    model: nn.Module | None = None,
    example: Tensor | None = None,
    method: object = "backprop",
    device: str | None = None,
    width: str = "fp32",
    *,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    recompute: bool = False,
    json_path: Path | None = None,
    plot_path: Path | None = None,
    book: bool = False,
) -> int:
    """Price a step and print it; with ``book`` the published cost book (alone if no model is given).

    Raises:
        LightningFwdError: neither model nor book, an unknown name, or a file that cannot be written.
    """
    console = Console()
    if book:
        print_book(console)
    if model is None:
        if not book:
            raise LightningFwdError("no model to price", "", "give --model NAME, or --book for the published cost book")
        return 0
    report: CostReport = step_cost(
        model, example, device, width, method=method, optimizer=optimizer, momentum=momentum, recompute=recompute
    )
    console.print(report)
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise LightningFwdError(f"cannot write {json_path}", str(error), "give a path in a folder that you may write to") from error
    if plot_path is not None:
        plot_memory(report, plot_path)
    return 0
