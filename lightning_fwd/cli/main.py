"""``lightning-fwd``: find the command, read its options, run it."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import pairwise
from types import ModuleType

from rich.console import Console
from rich.markup import escape

from ..errors import LightningFwdError
from .stopping import Terminated, stoppable, stopped

LIGHTNING = ("fit", "validate", "test", "predict")

#: Command to its line of help; each is a module of this room with ``add_options(parser)`` and ``run(options)``, imported when it is asked
#: for.
COMMANDS = {
    "adapt": "Adapt a trained network to drift in guarded stages: what each did, what it costs, the accuracy before and after.",
    "compare": "Pretrain, drift, adapt by each rule: accuracy and cost in one table.",
    "cost": "What one training step costs: operations, memory, time and energy on a named device.",
    "rewrite": "Show a model's graph before and after a rule's passes.",
    "search": "Find what to train under a budget of bytes and operations, or on a device.",
    "list": "What has a name: devices, kinds of drift, learning rules and their settings, models, data sets.",
}
PLUGINS = (
    "lightning_fwd.commands"  #: entry points of other packages: a command's name to a module with a docstring and the same two functions
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user's ends in its text and exit code 2, never in a traceback.

    The current folder is searched for import paths (``--model mynet.MyNet``), as ``python -m`` does.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    command = arguments[0] if arguments else ""
    try:
        with stoppable(command):
            if command in LIGHTNING:
                from .lightning import run

                return run(arguments)
            options = parser(command or None).parse_args(arguments)
            return options.run_command(options) or 0
    except (KeyboardInterrupt, Terminated, SystemExit) as error:
        if (end := stopped(error, command)) is None:
            raise
        _say(end[1])
        return end[0]
    except (ValueError, OSError, ImportError) as error:  # what was given is wrong; anything else is a bug and shows where
        _say(f"[bold red]error[/]: {escape(_with_file(error, arguments))}")
    return 2


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def _with_file(error: Exception, arguments: list[str]) -> str:
    """An error's text, with the file that it is about where it does not say so: the recipe, or of the disk's errors the folder that is
    written to."""
    said, given = str(error), {}
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        given[option if equals else before] = value if equals else argument
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:  # disk full, quota, too large a file
        where = given.get("--out") or given.get("--trainer.default_root_dir") or os.getcwd()
        return f"{said}\n  file: in {where}\n  mend: free space there, or write to another folder"
    recipe = given.get("-c") or given.get("--config")
    return f"{said}\n  file: {recipe}" if recipe and recipe not in said else said


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line's parser.

    Args:
        command: the one whose options are wanted; the others are named only, and not imported.

    Raises:
        LightningFwdError: two packages bring a command of that name, or the package that brings it is not all there.
    """
    top = argparse.ArgumentParser("lightning-fwd", description="Learning rules for devices too small for backpropagation.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in LIGHTNING:
        commands.add_parser(name, help=f"{name} by Lightning (own options: lightning-fwd {name} --help)")
    for name, line in COMMANDS.items():
        _add(commands, name, line, _own(name) if name == command else None)
    for name, point in plugins().items():
        if name == command:
            module = _load(point)
            _add(commands, name, _first_line(module), module)
        else:
            _add(commands, name, _help_of(point), None)
    return top


def plugins() -> dict[str, EntryPoint]:
    """Commands that other packages bring (the exporter's ``export`` and ``npu``), by name.

    Raises:
        LightningFwdError: a name is taken twice.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=PLUGINS):
        taken = found.get(point.name)
        if point.name in COMMANDS or point.name in LIGHTNING or (taken is not None and taken.value != point.value):
            other = "lightning_fwd itself" if taken is None else taken.value
            raise LightningFwdError(
                f"the command {point.name!r} is brought by {point.value} and by {other}", "", "uninstall one of the packages"
            )
        found[point.name] = point
    return dict(sorted(found.items()))


def _own(name: str) -> ModuleType:
    return import_module(f".{'names' if name == 'list' else name}", __package__)


def _load(point: EntryPoint) -> ModuleType:
    try:
        return point.load()
    except ImportError as error:
        raise LightningFwdError(f"the command {point.name} is not available", str(error), "pip install 'lightning_fwd[export]'") from error


def _help_of(point: EntryPoint) -> str:
    """A plug-in's line of help; a broken one must not take the others' help with it."""
    try:
        return _first_line(point.load())
    except Exception as error:
        return f"not available: {error}"


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def _add(commands, name: str, line: str, module: ModuleType | None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    if module is None:
        commands.add_parser(name, help=line)
        return
    sub = commands.add_parser(name, help=line, description=(module.run.__doc__ or "").partition("Raises:")[0].strip(), formatter_class=raw)
    module.add_options(sub)
    sub.set_defaults(run_command=module.run)


if __name__ == "__main__":
    sys.exit(main())
