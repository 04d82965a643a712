"""``lightning-fwd fit | validate | test | compare | cost | rewrite | search | list | export | npu``."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from .graph.errors import LightningFwdError

_NAMES = "What has a name (devices, drifts, methods with their settings, models, data): lightning-fwd list TOPIC"
_LIGHTNING = ("fit", "validate", "test", "predict")
_EXPORTER = {
    "export": "Ship the training step: ExecuTorch program, C, emulated board.",
    "npu": "What an Ethos-U takes for the forward pass, by its compiler Vela; writes a device profile.",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user's ends in its text and exit code 2, never in a traceback.

    The current folder is searched for import paths (``--model mynet.MyNet``), as ``python -m`` does.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    console = Console(stderr=True)
    try:
        if arguments and arguments[0] in _LIGHTNING:
            return _lightning(arguments)
        if arguments and arguments[0] in _EXPORTER:  # a package of its own, with its own options
            return _exporter(*arguments)
        return _own(arguments)
    except (ValueError, OSError, ImportError) as error:  # what was given is wrong; anything else is a bug and shows where
        console.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
    return 2


def _lightning(arguments: list[str]) -> int:
    """LightningCLI over any LightningModule and data module; the defaults are the recipes' own."""
    import lightning as L
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from .strategies import METHODS

    class SaveConfig(SaveConfigCallback):
        def setup(self, trainer, pl_module, stage):
            if trainer.loggers:  # without a run folder it would litter the current one
                super().setup(trainer, pl_module, stage)

    class Cli(LightningCLI):
        def add_arguments_to_parser(self, parser):
            parser.set_defaults({"model": "lightning_fwd.classifier.Classifier", "data": "lightning_fwd.data.DriftDataModule"})
            parser.add_argument("--test_after_fit", type=bool, default=True, help="end fit with the accuracy on the test part")

        def after_fit(self):
            if self.config.fit.test_after_fit and self.trainer.state.finished:
                self.trainer.test(self.model, self.datamodule)

    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # it takes them for a mistake of ours
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`")  # Lightning's own, of no use to anybody here
    try:
        Cli(
            L.LightningModule, L.LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, args=arguments,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True}, parser_kwargs={"exit_on_error": False},
        )  # fmt: skip
    except argparse.ArgumentError as error:
        raise LightningFwdError(_cause(str(error)), *_about_strategy(str(error), arguments[0])) from error
    except ValueError as error:
        if "invalid strategy name" not in str(error):
            if "Errors:" in str(error):
                raise LightningFwdError(_cause(str(error))) from error
            raise
        raise LightningFwdError(
            str(error).split(". ")[0], "", f"learning rules by name: {', '.join(METHODS)}; for settings see recipes/digits_pepita.yaml"
        ) from error
    return 0


def _cause(message: str) -> str:
    """What jsonargparse says of an argument, without the types that it tried and the value that it was given."""
    where, found, errors = message.partition("Errors:\n")
    if not found:
        return message
    lines = textwrap.dedent(errors.rpartition("Given value type:")[0]).splitlines()
    said = [line.removeprefix("- ") for line in lines if line.strip() and "Expected a <class 'NoneType'>" not in line]
    return "\n".join([*where.splitlines()[:1], *said] if where.startswith("Parser key") else said)


def _about_strategy(message: str, command: str) -> tuple[str, str]:
    """Why and how to mend, where a setting was given to a strategy that a recipe names by a word."""
    if "trainer.strategy" not in message or "Expected a dot import path string" not in message:
        return "", f"for the options run lightning-fwd {command} --help"
    named = "--trainer.strategy lightning_fwd.ForwardOnlyStrategy --trainer.strategy.init_args.method lightning_fwd.Pepita"
    return (
        "a strategy that the recipe names by a word (strategy: local_loss) has no settings to change",
        f"take another rule by --trainer.strategy NAME, or one with settings by {named} --trainer.strategy.init_args.method.init_args.seed 3",
    )


def _own(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("lightning-fwd", description="Learning rules for devices too small for backpropagation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _LIGHTNING:
        commands.add_parser(name, help=f"{name} by Lightning (own options: lightning-fwd {name} --help)")
    for name, what in _EXPORTER.items():
        commands.add_parser(name, help=what)
    for name, (add_options, _run) in _COMMANDS.items():
        raw = argparse.RawDescriptionHelpFormatter
        add_options(commands.add_parser(name, help=_run.__doc__.splitlines()[0], description=_run.__doc__, formatter_class=raw))
    options = parser.parse_args(arguments)
    return _COMMANDS[options.command][1](options) or 0


def _compare_options(parser: argparse.ArgumentParser) -> None:
    from .catalogue import documentation
    from .compare import Row, Scenario, Training

    keys = ((Scenario, "Keys of a scenario"), (Row, "Keys of each of its rows"), (Training, "Keys of pretrain and adapt"))
    parser.epilog = "\n\n".join([*(documentation(of, heading) for of, heading in keys), _NAMES])
    parser.add_argument("-c", "--config", required=True, help="scenario, e.g. recipes/compare_digits_drift.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder for results.csv, summary.md and pareto.png; run again to resume")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the scenario's")
    parser.add_argument("--device", help="in place of the scenario's")
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), help="in place of the scenario's")
    parser.add_argument("--jobs", type=int, help="worker processes (default: one per core)")


def _compare(options: argparse.Namespace) -> int:
    """Pretrain, drift, adapt by each rule: accuracy and cost in one table."""
    from .compare import compare, load_scenario, plot_pareto, print_table, summarise, write_markdown

    overrides = {k: v for k in ("seeds", "device", "width") if (v := getattr(options, k)) is not None}
    scenario, console = load_scenario(options.config, overrides), Console()
    lines = summarise(scenario, compare(scenario, options.out, options.jobs, console))
    print_table(scenario, lines, console)
    write_markdown(scenario, lines, options.out / "summary.md")
    plot_pareto(scenario, lines, options.out / "pareto.png")
    console.print(f"wrote {options.out}/results.csv, summary.md, pareto.png", highlight=False)
    return 0


def _model_options(parser: argparse.ArgumentParser, method: bool = True) -> None:
    parser.add_argument("--model", required=True, help="a known network (resnet8, ds_cnn, mlp, ...) or package.module.Class")
    parser.epilog = _NAMES
    if method:
        parser.add_argument("--method", default="backprop", help="learning rule")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the rule, e.g. --set train=biases"
        )
    parser.add_argument("--model-args", type=_settings, default={}, metavar="KEY=VALUE,...", help="arguments of the model's class")
    parser.add_argument(
        "--input-shape",
        type=_shape,
        help="of one sample, e.g. 3,32,32; by default the model's own",
    )


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(_positive(size) for size in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write sizes with commas between, e.g. 3,32,32") from None


def _positive(text: str) -> int:
    if not (text.strip().isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _rewrite(options: argparse.Namespace) -> int:
    """Show a model's graph before and after a rule's passes."""
    from .graph.show import print_rewrite
    from .methods import rewrite

    net, example = build_model(options, batch=2)
    print_rewrite(rewrite(net, build_method(options), example), Console())
    return 0


def build_model(options: argparse.Namespace, batch: int = 1, data_shape: Callable[[], tuple[int, ...] | None] = lambda: None):
    """The network that ``--model`` names, and an example input ``(batch, ...)``: of ``--input-shape``, the model's own, else ``data_shape()``."""
    import torch

    from .models import build

    net = build(options.model, **options.model_args)
    shape = options.input_shape or getattr(net, "input_shape", None) or data_shape()
    if shape is None:
        raise LightningFwdError(
            f"{options.model} does not tell the shape of its input",
            "",
            "give --input-shape, e.g. --input-shape 3,32,32",
        )
    return net, torch.zeros(batch, *shape)


def build_method(options: argparse.Namespace):
    """The learning rule that ``--method`` and ``--set`` name."""
    from .methods import get_method

    return get_method(options.method, **{k: v for item in options.set for k, v in _settings(item).items()})


def _settings(text: str) -> dict[str, object]:
    """``"a=1,b=relu"`` as a dict; values are Python literals, else text."""
    settings = {}
    for item in _split_outside_brackets(text):
        key, equals, value = item.partition("=")
        if not equals:
            raise LightningFwdError(f"{item!r} is not KEY=VALUE", "", "write e.g. train=biases")
        try:
            settings[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key.strip()] = value
    return settings


def _split_outside_brackets(text: str) -> list[str]:
    items, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return items


def _cost_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser)
    parser.add_argument("--device", help="named device or YAML file")
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), default="fp32")
    parser.add_argument("--batch", type=_positive, default=1, help="samples per step")
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--momentum", type=float, default=0.0, help="of sgd; its state takes memory")
    parser.add_argument("--recompute", action="store_true", help="make cheap activations again in place of keeping them")
    parser.add_argument("--json", type=Path, help="write the ledger there")
    parser.add_argument("--plot", type=Path, help="draw memory over the step there")
    for action in parser._actions:  # --book needs no model
        action.required = action.required and action.dest != "model"
    parser.add_argument("--book", action="store_true", help="the published cost book of the MLCommons-Tiny networks, re-derived")


def _cost(options: argparse.Namespace) -> int:
    """What one training step costs: operations, memory, time and energy on a named device."""
    from .cost.command import cost_command

    net, example = build_model(options, options.batch) if options.model else (None, None)
    return cost_command(
        net, example, build_method(options), options.device, options.width, optimizer=options.optimizer,
        momentum=options.momentum, recompute=options.recompute, json_path=options.json, plot_path=options.plot,
        book=options.book,
    )  # fmt: skip


def _search_options(parser: argparse.ArgumentParser) -> None:
    from .catalogue import documentation
    from .compare import Training
    from .search import SchemeSearch, parse_budget
    from .search.command import add_options

    keys = ((SchemeSearch, "Keys of a search"), (Training, "Keys of pretrain"), (parse_budget, "budget"))
    parser.epilog = "\n\n".join([*(documentation(of, heading) for of, heading in keys), _NAMES])
    add_options(parser)


def _search(options: argparse.Namespace) -> int:
    """Find what to train under a budget of bytes and operations, or on a device."""
    from .search.command import run

    return run(options)


def _list_options(parser: argparse.ArgumentParser) -> None:
    from .catalogue import add_options

    add_options(parser)


def _list(options: argparse.Namespace) -> int:
    """What has a name: devices, kinds of drift, learning rules and their settings, models, data sets."""
    from .catalogue import run

    return run(options)


def _exporter(command: str, *arguments: str) -> int:
    try:
        from lightning_fwd_export import cli as exporter
    except ImportError as error:
        raise LightningFwdError("the exporter is not available", str(error), "pip install lightning_fwd[export]") from error
    return getattr(exporter, command)(list(arguments))


_COMMANDS: dict[str, tuple[Callable, Callable]] = {
    "compare": (_compare_options, _compare),
    "cost": (_cost_options, _cost),
    "rewrite": (_model_options, _rewrite),
    "search": (_search_options, _search),
    "list": (_list_options, _list),
}

if __name__ == "__main__":
    sys.exit(main())
