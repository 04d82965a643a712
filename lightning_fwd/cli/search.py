"""``lightning-fwd search``."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import yaml
from rich.console import Console

from ..errors import LightningFwdError
from ..strict_yaml import load_yaml
from .options import NAMES, add_worker_options


def add_options(parser: argparse.ArgumentParser) -> None:
    from ..recipes import Training
    from ..search import SchemeSearch, parse_budget
    from .names import documentation

    keys = ((SchemeSearch, "Keys of a search"), (Training, "Keys of pretrain"), (parse_budget, "budget"))
    parser.epilog = "\n\n".join([*(documentation(of, heading) for of, heading in keys), NAMES])
    parser.add_argument("-c", "--config", required=True, help="search, e.g. recipes/search_resnet8.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder for scheme.yaml and the measurements; run again to resume")
    parser.add_argument("--budget", type=_budget, help='in place of the recipe\'s: a device, or e.g. "{ram: 64KB}"')
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), help="in place of the recipe's")
    parser.add_argument(
        "--controls", type=int, default=0, metavar="N",
        help="also judge N random schemes that use up the same budget, on samples that had no part in the search",
    )  # fmt: skip
    add_worker_options(parser)


def _budget(text: str) -> str | dict:
    try:
        return load_yaml(text) or {}
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a device nor e.g. {{ram: 64KB}}") from None


def run(options: argparse.Namespace) -> int:
    """Find what to train under a budget: bytes of RAM, operations, or a device."""
    from ..recipes import on_backend
    from ..search import load_search, search

    console = Console()
    overrides = {k: v for k in ("budget", "width") if (v := getattr(options, k)) is not None}
    if options.controls < 0:
        raise LightningFwdError(f"--controls {options.controls}", "", "give 0 or more")
    with on_backend(options.backend, options.address):
        found = search(load_search(options.config, overrides), options.out.resolve(), options.jobs, console, options.controls)
    console.print(
        f"budget {found.budget}: the step takes {found.ram_bytes:,} B RAM and {found.macs:,} MAC\n"
        f"weights {found.method.train}\nbiases {found.method.biases}\n"
        f"accuracy under the simulated drifts {found.unadapted:.1f} % to {found.accuracy:.1f} %\nwrote {options.out}/scheme.yaml",
        highlight=False, markup=False,
    )  # fmt: skip
    if found.controls:
        console.print(
            f"on samples of their own {found.judged:.1f} %; {len(found.controls)} random schemes of the same budget, "
            f"{fmean(found.controls_ram):,.0f} B RAM: mean {fmean(found.controls):.1f} %, best {max(found.controls):.1f} %",
            highlight=False, markup=False,
        )  # fmt: skip
    return 0
