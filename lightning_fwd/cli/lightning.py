"""``lightning-fwd fit | validate | test | predict``: LightningCLI over any LightningModule and data module."""

from __future__ import annotations

import argparse
import textwrap
import warnings
from itertools import pairwise
from pathlib import Path

from ..errors import LightningFwdError
from ..strict_yaml import read_yaml
from .checkpoint import check_readable, naming_file, refuse_unsafe, require_rule, unfit, while_restoring


def run(arguments: list[str]) -> int:
    """LightningCLI over any LightningModule and data module; the defaults are the recipes' own."""
    import lightning as L
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from ..methods import METHODS

    class SaveConfig(SaveConfigCallback):
        def setup(self, trainer, pl_module, stage):
            if trainer.loggers:  # without a run folder it would litter the current one
                super().setup(trainer, pl_module, stage)

    class Cli(LightningCLI):
        def add_arguments_to_parser(self, parser):
            parser.set_defaults({"model": "lightning_fwd.classifier.Classifier", "data": "lightning_fwd.data.DriftDataModule"})
            parser.add_argument("--test_after_fit", type=bool, default=True, help="end fit with the accuracy on the test part")

        def _parse_ckpt_path(self):  # the first that reads the checkpoint; the trainer reads it again, by the same option
            options = self.config[self.config.subcommand]
            refuse_unsafe(options.get("ckpt_path"), options.get("weights_only"))
            options["weights_only"] = True
            if (
                options.get("ckpt_path") and Path(options["ckpt_path"]).exists()
            ):  # else a word of Lightning's ("best", "last"), or told by it
                given.append(options["ckpt_path"])
                content = check_readable(given[0], resumed=self.config.subcommand == "fit")
                require_rule(given[0], content, options["trainer"]["strategy"], arguments, arguments[0])
                if "_class_path" not in content.get("hyper_parameters", {}):  # not written by a LightningCLI: the options' own model stands
                    return
            super()._parse_ckpt_path()

        def after_fit(self):
            if self.config.fit.test_after_fit and self.trainer.state.finished:
                self.trainer.test(self.model, self.datamodule)

    given: list[str] = []  # the checkpoint

    def told(error: LightningFwdError, cause: Exception) -> LightningFwdError:
        return naming_file(given[0], error, cause) if given else error

    _check_recipes(arguments)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # it takes them for a mistake of ours
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`")  # Lightning's own, of no use to anybody here
    try:
        Cli(
            L.LightningModule, L.LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, args=arguments,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True}, parser_kwargs={"exit_on_error": False},
        )  # fmt: skip
    except argparse.ArgumentError as error:
        raise told(LightningFwdError(_cause(str(error)), *_about_strategy(str(error), arguments[0])), error) from error
    except LightningFwdError as error:
        raise told(error, error) from error
    except ValueError as error:
        if "invalid strategy name" not in str(error):
            if given and while_restoring(error):
                raise unfit(given[0], error, arguments[0]) from error
            message, cause = str(error), _cause(str(error))
            mend = f"correct that entry of the recipe or of the command line; for what each takes run lightning-fwd {arguments[0]} --help"
            if "mend:" in cause:
                if cause == message:
                    raise
                mend = ""
            raise told(LightningFwdError(cause, "", mend), error) from error
        raise LightningFwdError(
            str(error).split(". ")[0], "", f"learning rules by name: {', '.join(METHODS)}; for settings see recipes/digits_pepita.yaml"
        ) from error
    except Exception as error:
        if given and while_restoring(error) and not isinstance(error, LightningFwdError):
            raise unfit(given[0], error, arguments[0]) from error
        raise
    return 0


def _check_recipes(arguments: list[str]) -> None:
    """Read the YAML files among the arguments once, within bounds and strictly; jsonargparse would follow aliases without end.

    Raises:
        LightningFwdError: one of them is no YAML mapping; names it.
    """
    for before, argument in pairwise(["", *arguments]):
        option, _, file = argument.partition("=") if argument.startswith("--") else (before, "", argument)
        is_recipe = option in ("-c", "--config") or file.endswith((".yaml", ".yml"))
        if is_recipe and not file.startswith("-") and Path(file).exists():
            mend = "give a YAML file such as recipes/digits_pepita.yaml"
            content = read_yaml(file, "the recipe", mend)
            if not isinstance(content, dict):
                raise LightningFwdError(
                    f"the recipe {file!r} holds a {type(content).__name__}", "expected keys such as model, data, trainer", mend
                )


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
        f"take another rule by --trainer.strategy NAME, or one with settings by {named} "
        "--trainer.strategy.init_args.method.init_args.seed 3",
    )
