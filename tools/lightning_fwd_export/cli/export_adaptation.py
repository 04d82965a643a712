"""``lightning-fwd export -c RECIPE`` of an adaptation: all its stages as one library."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table

from lightning_fwd.strict_yaml import load_yaml

from ..errors import ExportError
from ..quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor

    from ..library import LibraryReport
    from ..library.on_board import BoardAdaptation

_TAKEN = {"help", "config", "out", "prefix", "board", "run", "test_samples", "steps"}


def is_adaptation(path: Path) -> bool:
    """Whether a recipe is one of ``lightning-fwd adapt``."""
    try:
        recipe = load_yaml(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # said by who reads it next
        return False
    return isinstance(recipe, dict) and "stages" in recipe


def export_adaptation(options: argparse.Namespace, console: Console, progress: Callable[[str], None]) -> None:
    """Write the library; with ``--board NAME`` an example firmware for it with the recipe's samples, with ``--run`` adapt on its emulator.

    Raises:
        ExportError: an option that an adaptation does not take, or it cannot be exported.
    """
    from lightning_fwd.recipes import quiet as quiet_trainer
    from lightning_fwd.recipes import require_data, require_fit, starting_network
    from lightning_fwd.recipes.adaptation import load_adaptation

    _require_options(options)
    recipe = load_adaptation(options.config)
    network, source, target = starting_network(recipe).eval(), recipe.data_module("source"), recipe.data_module("target")
    for data in (source, target):
        require_data(data, "labelled + unlabelled")
    require_fit(network, source)
    quiet_trainer(recipe.seed)
    with quiet():
        from ..boards import board as find_board
        from ..library import export_library
        from ..library.on_board import adapt_on_board
        from ..library.write_example import write_example
    board = find_board(options.board) if options.board else None
    options.out.mkdir(parents=True, exist_ok=True)
    stages = [stage.prepared(network, source, options.out / "source") for stage in recipe.built_stages()]
    x, y = target.tensors("train")
    more: dict[str, Any] = {"firmware": recipe.built_firmware(), "held_back": recipe.held_back, "seed": recipe.seed}
    more |= {"prefix": options.prefix, "form": source.input_form() if hasattr(source, "input_form") else None}
    firmware = recipe.built_firmware()
    if firmware and (firmware.false_alarms is not None or firmware.precision == "integer"):
        more["source"] = source.tensors("train")[0]
    if options.steps != options.defaults["steps"]:
        more["steps"] = options.steps
    report = export_library(network, stages, x[:1], options.out, **more, progress=progress)
    _print_library(report, console)
    if board is not None:
        test, truth = (part[: options.test_samples] for part in target.tensors("test"))
        sound = more["form"] is not None and more["form"].recording
        labelled = x[: recipe.labelled], y[: recipe.labelled]
        write_example(options.out / "example", board, *labelled, test, truth)
        console.print(f"an example firmware for {board.name}: make -C {options.out}/example run", highlight=False, soft_wrap=True)
    if options.run:
        progress(f"adapting on {board.name}")
        given, tried = (target.recorded("train"), target.recorded("test")[: len(test)]) if sound else (x, test)
        unlabelled = given[recipe.labelled :] if recipe.unlabelled else None
        result = adapt_on_board(Path(report.code), board, given[: recipe.labelled], labelled[1], tried, unlabelled)
        _print_board(report, result, truth, target.title, options.out, console)


def _require_options(options: argparse.Namespace) -> None:
    stated = {key for key, default in options.defaults.items() if getattr(options, key, None) != default}
    if unused := sorted(stated - _TAKEN):
        flags = ", ".join("--" + key.replace("_", "-") for key in unused)
        raise ExportError(f"{flags} with the recipe of an adaptation", "model, data, rates and stages are the recipe's", "write it there")
    if options.run and options.board is None:
        raise ExportError("--run without --board", "it adapts on an emulated board", "add --board mps2-an386")
    if options.board and options.prefix != options.defaults["prefix"]:
        raise ExportError("--prefix with --board", "the board's main calls lfwd_ names", "leave one of them out")


def _print_library(report: LibraryReport, console: Console) -> None:
    table = Table("", "bytes", title="one library")
    table.columns[1].justify = "right"
    for name, size in report.ram_bytes.items():
        table.add_row(f"RAM, {name}", f"{size:,}")
    for core, size in report.flash_bytes.items():
        table.add_row(f"Flash, {core}", f"{size:,}")
    console.print(table)
    steps = ", ".join(f"{count} of {name}" for name, count in report.steps.items())
    if report.input_macs:
        console.print(f"an input of sound: {report.input_macs:,} MAC beside the network's", highlight=False)
    said = f"{report.program}: steps ({steps}) within {report.weight_difference:.1e} of PyTorch; C in {report.code}"
    console.print(said, highlight=False, soft_wrap=True)


def _print_board(report: LibraryReport, result: BoardAdaptation, truth: Tensor, title: str, out: Path, console: Console) -> None:
    """What the board did, and the same as ``adaptation.json``."""
    right = [round(100 * int((logits.argmax(1) == truth).sum()) / len(truth), 1) for logits in (result.before, result.after)]
    done = {"board": result.board, "before_percent": right[0], "after_percent": right[1], "test_samples": len(truth)}
    from ..boards import board as find_board

    done |= {"flash_bytes": result.flash, "ram_bytes": result.ram, "stages": [asdict(stage) for stage in result.stages]}
    counted = dict(zip(["prediction", *report.stages, "input"], result.instructions, strict=False))  # of an input: from sound only
    counted |= {f"between the rounds of {name}": n for name, n in zip(report.stages, result.between, strict=True) if n}
    done |= {"instructions": counted}
    (out / "adaptation.json").write_text(json.dumps(done, indent=2) + "\n")
    for name, stage in zip(report.stages, result.stages, strict=True):
        losses = f"loss {stage.before:.3f} -> {stage.after:.3f} on {stage.judged_on} samples"
        console.print(f"{name}: {stage.outcome}, {losses}, {stage.epochs} epochs", highlight=False)
    ram, flash = sum(report.ram_bytes.values()), report.flash_bytes[find_board(result.board).cpu]
    console.print(f"as linked / predicted: RAM {result.ram:,} / {ram:,} bytes, Flash {result.flash:,} / {flash:,} bytes", highlight=False)
    each = ", ".join(f"{n:,} {name}" for name, n in counted.items())
    console.print(f"emulated instructions: {each}", highlight=False, soft_wrap=True)
    said = f"{result.board}, {title}: accuracy {right[0]:.1f} % -> {right[1]:.1f} % on {len(truth)} test samples"
    console.print(said, highlight=False, soft_wrap=True)
