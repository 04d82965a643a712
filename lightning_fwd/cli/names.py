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
from ..data.drift import KINDS
from ..data.drift_kinds import DriftKind
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
    _table(console, ("kind", "severity", "allowed", "levels 1 to 5", "of"), (
        (name, kind.meaning, f"{kind.low:g}..{kind.high:g}", ", ".join(f"{level:g}" for level in kind.levels), _of(kind))
        for name, kind in KINDS.items()
    ))  # fmt: skip
    _say(
        console,
        "Write noise=0.08, contrast=0.3+noise=0.04, {kind: blur, level: 2}, or a list of these. Full scale is 1 in images (0..1),\n"
        f"one standard deviation of the source in signals. Real drifts of har: {', '.join(HAR_DRIFTS)}; simulated ones may follow a "
        "real one: subject+noise=0.5.",
    )


def _of(kind: DriftKind) -> str:
    return "recordings" if kind.audio else "images, signals" if kind.signals else "images"


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


def _device(name: str) -> str:
    """Every figure of a profile, with its kind and its source."""
    device = load_device(name)
    lines = [f"  {path}: {figure.value:,} ({figure.kind}: {figure.source})" for path, figure in device.figures()]
    return "\n".join([f"{name}: {device.core}; cycles_per_mac counts {device.counts}", *lines])


def _drift(name: str) -> str:
    kind = KINDS[name]
    levels = ", ".join(f"{level:g}" for level in kind.levels)
    return (
        f"{name}: its severity is {kind.meaning}\n  allowed: {kind.low:g}..{kind.high:g}; {kind.identity:g} changes nothing\n"
        f"  levels 1 to 5: {levels}\n  for {_of(kind)}\n\nWrite {name}={kind.levels[2]:g}, or {{kind: {name}, level: 3}}."
    )


def _documented(named: Mapping[str, Callable]) -> Callable[[str], str]:
    return lambda name: documentation(named[name], name)


#: Topic to its table, its names, and what is said of one of them.
TOPICS: dict[str, tuple[Callable[[Console], None], Iterable[str], Callable[[str], str] | None]] = {
    "devices": (_devices, device_names(), _device),
    "drifts": (_drifts, KINDS, _drift),
    "methods": (_methods, METHODS, _documented(METHODS)),
    "models": (_models, MODELS, _documented(MODELS)),
    "data": (_data, (), None),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("name", nargs="?", help="of one of them: all that is known of it, its arguments or figures")


def run(options: argparse.Namespace) -> int:
    """What has a name: devices, kinds of drift, learning rules and their settings, models, data sets."""
    console = Console()
    show, named, describe = TOPICS[options.topic]
    if options.name is None:
        show(console)
        return 0
    if describe is None or options.name not in named:
        known = f"known are {', '.join(named)}" if named else f"lightning-fwd list {options.topic} shows all there is"
        raise LightningFwdError(f"no {options.name!r} among {options.topic}", "", known)
    _say(console, describe(options.name))
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
