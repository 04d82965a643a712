"""The command ``lightning-fwd list``: what has a name, and the keys of recipes, read from the registries and their docstrings."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..cost import device_names, load_device
from ..cost.device import EXAMPLE
from ..data import DATASETS, HAR_DRIFTS, DriftDataModule, load_dataset
from ..data.dataset import dataset_from_arrays
from ..data.drift_kinds import DRIFT_KINDS
from ..errors import LightningFwdError
from ..methods import METHODS
from ..models import MODELS
from ..settings import arguments


def documentation(of: Callable, heading: str = "") -> str:
    """A docstring without its markup, under a heading, and the defaults."""
    text = re.sub(r"(:\w+:)?`+~?([^`]+)`+", r"\2", inspect.getdoc(of) or "")
    defaults = arguments(of)
    return f"{heading or of.__name__}: {text}" + (f"\n\nDefaults: {defaults}" if "=" in defaults else "")


def _devices(console: Console) -> None:
    rows = []
    for device in map(load_device, device_names()):
        clock, ram, flash = (figure.value for figure in (device.clock_hz, device.sram_bytes, device.flash_bytes))
        widths = ", ".join(device.cycles_per_mac) + (" (instructions)" if device.counts == "instructions" else "")
        rows.append((device.name, device.core, f"{clock / 1e6:g}", f"{ram / 1024:,.0f}", f"{flash / 1024:,.0f}", widths))
    _table(console, ("name", "core", "MHz", "RAM KiB", "Flash KiB", "figures for"), rows)
    _say(console, f"A device of your own is the path of a YAML file such as this; kind is measured, datasheet or estimate:\n\n{EXAMPLE}")


def _drifts(console: Console) -> None:
    _table(console, ("kind", "severity", "allowed", "levels 1 to 5", "signals"), (
        (name, kind.meaning, f"{kind.low:g}..{kind.high:g}", ", ".join(f"{level:g}" for level in kind.levels), "yes" if kind.signals else "no")
        for name, kind in DRIFT_KINDS.items()
    ))  # fmt: skip
    _say(console, "Write noise=0.08, contrast=0.3+noise=0.04, {kind: blur, level: 2}, or a list of these. Full scale is 1 in images (0..1),\n"
         f"one standard deviation of the source in signals. Real drifts of har: {', '.join(HAR_DRIFTS)}.")  # fmt: skip


def _methods(console: Console) -> None:
    rows = [(name, _summary(method), ", ".join(inspect.signature(method).parameters)) for name, method in METHODS.items()]
    _table(console, ("name", "what it is", "settings"), rows)
    _say(
        console,
        "For Trainer(strategy=NAME), --method NAME and rows of a comparison. What the settings mean: lightning-fwd list methods NAME",
    )


def _models(console: Console) -> None:
    rows = [(name, "x".join(map(str, m.input_shape)), str(m.num_classes or "-"), _summary(m)) for name, m in MODELS.items()]
    _table(console, ("name", "input", "classes", "what it is"), rows)
    _say(console, "Or package.module.Class of your own. Arguments: lightning-fwd list models NAME")


def _data(console: Console) -> None:
    _say(console, f"By name: {', '.join(DATASETS)}; or the path of an .npz of your own.\n")
    for of, heading in ((load_dataset, ""), (dataset_from_arrays, "arrays of an .npz"), (DriftDataModule, "keys of data in recipes")):
        _say(console, documentation(of, heading) + "\n")


TOPICS: dict[str, tuple[Callable[[Console], None], Mapping[str, Callable] | None]] = {
    "devices": (_devices, None),
    "drifts": (_drifts, None),
    "methods": (_methods, METHODS),
    "models": (_models, MODELS),
    "data": (_data, None),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("name", nargs="?", help="of a method or a model: its documentation and arguments")


def run(options: argparse.Namespace) -> int:
    """What has a name: devices, kinds of drift, learning rules and their settings, models, data sets."""
    console = Console()
    show, named = TOPICS[options.topic]
    if options.name is None:
        show(console)
        return 0
    if named is None or options.name not in named:
        known = f"known are {', '.join(named)}" if named else f"lightning-fwd list {options.topic} shows all there is"
        raise LightningFwdError(f"no {options.name!r} among {options.topic}", "", known)
    _say(console, documentation(named[options.name], options.name))
    return 0


def _summary(of: Callable) -> str:
    return documentation(of).partition(": ")[2].partition("\n\n")[0].replace("\n", " ")


def _table(console: Console, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
