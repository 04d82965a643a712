"""``lightning-fwd cost``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import LightningFwdError
from .options import add_model_options, build_method, build_model, positive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..cost import CostReport


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, required=False)  # --book needs none
    parser.add_argument("--device", help="named device or YAML file")
    parser.add_argument(
        "--width", choices=("fp32", "int8", "mixed", "integer"), default="fp32", help="integer: the step lowered to integers"
    )
    parser.add_argument("--batch", type=positive, default=1, help="samples per step")
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--momentum", type=float, default=0.0, help="of sgd; its state takes memory")
    parser.add_argument("--recompute", action="store_true", help="make cheap activations again in place of keeping them")
    parser.add_argument("--json", type=Path, help="write the ledger there")
    parser.add_argument("--plot", type=Path, help="draw memory over the step there")
    parser.add_argument("--book", action="store_true", help="the published cost book of the MLCommons-Tiny networks, re-derived")


def run(options: argparse.Namespace) -> int:
    """What one training step costs: operations, memory, time and energy on a named device.

    Raises:
        LightningFwdError: neither model nor book, an unknown name, or a file that cannot be written.
    """
    from ..cost import step_cost
    from ..cost.book import print_book
    from ..cost.plot import plot_memory

    console = Console()
    if options.book:
        print_book(console)
    if options.model is None:
        if not options.book:
            raise LightningFwdError("no model to price", "", "give --model NAME, or --book for the published cost book")
        return 0
    network, batch = build_model(options, options.batch)
    if options.width == "integer":
        report = _in_integers(network, batch, options)
    else:
        report = step_cost(
            network, batch, options.device, options.width, method=build_method(options), optimizer=options.optimizer,
            momentum=options.momentum, recompute=options.recompute,
        )  # fmt: skip
    console.print(report)
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise LightningFwdError(f"cannot write {options.json}", str(error), "give a path in a folder that you may write to") from error
    if options.plot is not None:
        plot_memory(report, options.plot)
    return 0


def _in_integers(network: nn.Module, batch: Tensor, options: argparse.Namespace) -> CostReport:
    from ..integer import integer_cost

    if options.optimizer != "sgd" or options.recompute:
        raise LightningFwdError(
            "--width integer with --optimizer adam or --recompute", "an integer step is SGD's, as it is exported", "leave them out"
        )
    return integer_cost(network, batch, options.device, method=build_method(options), momentum=options.momentum)
