"""Runs that are killed (SIGKILL, at any moment) and started again: do they end at the bits of one that was left alone?

    python tools/faults/kill.py --trials 100                      # fit, compare, search and adapt
    python tools/faults/kill.py --commands fit --trials 20 --seed 3

Each trial kills the command up to three times, each time after a random part of what a whole run takes, and then lets it end. ``same``:
what it wrote is the uninterrupted run's to the bit, wall times left out. A fit writes a checkpoint every second step, and goes on from the
last one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

import lightning_fwd.cli.lightning  # noqa: F401  # all that the commands import, once, before the processes part
import lightning_fwd.compare
import lightning_fwd.search  # noqa: F401
from lightning_fwd.cli import main as command_line
from lightning_fwd.methods import Backprop
from lightning_fwd.models import build
from lightning_fwd.recipes import Training, data_module, fit, store_weights

DATA = {"dataset": "digits", "drift": "noise=0.15", "flatten": True}
NET = {"in_features": 64, "hidden": [12]}
PRETRAINED = {"data": DATA, "model": "mlp", "model_args": NET, "pretrain": {"epochs": 1, "batch_size": 32, "lr": 0.05}}
COMPARE = {**PRETRAINED, "controls": False, "seeds": [0, 1], "adapt_samples": 60, "adapt": {"epochs": 2, "batch_size": 10, "lr": 0.02},
           "rows": [{"name": name, "method": name} for name in ("pepita", "local_loss")]}  # fmt: skip
SEARCH = {**PRETRAINED, "data": {"dataset": "digits", "flatten": True}, "drifts": ["contrast=0.3"], "budget": {"ram": "64KB"}, "lr": 0.03,
          "fractions": [1.0], "samples": 100, "held_out": 100, "epochs": 3, "finalists": 2}  # fmt: skip
ADAPT = {"data": DATA, "model": "mlp", "model_args": NET, "weights": "trained.safetensors", "labelled": 100,
         "stages": [{"method": "sparse_update", "settings": {"train": "head"}, "lr": [0.01, 0.05]}]}  # fmt: skip
FIT = {
    "seed_everything": 0,
    "model": {"class_path": "lightning_fwd.Classifier", "init_args": {
        "model": "mlp", "model_args": {**NET, "dropout": 0.2}, "lr": 0.05, "momentum": 0.9, "schedule": "cosine"}},
    "data": {"class_path": "lightning_fwd.data.DriftDataModule", "init_args": {
        "dataset": "digits", "flatten": True, "batch_size": 16, "train_samples": 150}},
    "trainer": {"max_epochs": 6, "strategy": "local_loss", "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
    "callbacks": [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {
            "dirpath": "out", "every_n_train_steps": 2, "save_last": True, "save_top_k": 1, "monitor": None}}]},
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """One command: its recipe, its options in a folder, and what of its files counts."""

    recipe: dict
    options: Callable[[Path], list[str]]
    result: Callable[[Path], object]


def _digest(*files: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _checkpoint(folder: Path) -> object:
    content = torch.load(folder / "out" / "last.ckpt", weights_only=True)
    # not "epoch": a run that had ended writes max_epochs there when it is resumed, with Lightning's own strategy too
    kept = {key: content[key] for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "lightning_fwd")}
    return {
        key: repr(value) if not isinstance(value, dict) else {k: str(_plain(v)) for k, v in value.items()} for key, value in kept.items()
    }


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _tables(folder: Path) -> object:
    with (folder / "out" / "results.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in csv.DictReader(file)]
    return rows, _digest(*sorted((folder / "out").glob("*/*.safetensors")))


def _found(folder: Path) -> object:
    return sorted((folder / "out" / "contributions.csv").read_text().splitlines()), _digest(folder / "out" / "scheme.yaml")


def _fit_options(folder: Path) -> list[str]:
    last = folder / "out" / "last.ckpt"
    return ["--test_after_fit=false", *([f"--ckpt_path={last}"] if last.exists() else [])]


_OUT = ["--out", "out"]
COMMANDS = {
    "fit": Command(FIT, _fit_options, _checkpoint),
    "compare": Command(COMPARE, lambda folder: [*_OUT, "--jobs", "1", "--keep-weights"], _tables),
    "search": Command(SEARCH, lambda folder: [*_OUT, "--jobs", "1"], _found),
    "adapt": Command(
        ADAPT, lambda folder: _OUT, lambda folder: _digest(folder / "out" / "adapted.safetensors", folder / "out" / "report.txt")
    ),
}


def start(name: str, folder: Path) -> int:
    """The command in a child process that shares what is imported here; its process id."""

    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    status = 70
    try:
        torch.set_num_threads(1)
        status = command_line([name, "-c", "recipe.yaml", *COMMANDS[name].options(folder)])
    finally:
        os._exit(status)


def finish(name: str, folder: Path) -> tuple[object, float]:
    """Let a command end: what counts of its files, and the seconds it took.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    began = time.perf_counter()
    status = os.waitstatus_to_exitcode(os.waitpid(start(name, folder), 0)[1])
    if status:
        raise RuntimeError(f"{name} ended with status {status}: {(folder / 'log.txt').read_text()[-1500:]}")
    return COMMANDS[name].result(folder), time.perf_counter() - began


def prepare(name: str, folder: Path) -> Path:
    """A folder with the command's recipe and the files that it reads."""

    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(COMMANDS[name].recipe))
    if name == "adapt":
        trained = folder.parents[0] / "trained.safetensors"
        if not trained.exists():
            torch.manual_seed(0)
            store_weights(fit(build("mlp", **NET), Backprop(), data_module(DATA), Training(epochs=6), accelerator="cpu"), trained)
        (folder / "trained.safetensors").write_bytes(trained.read_bytes())
    return folder


def trials(name: str, work: Path, count: int, seed: int) -> Counter[str]:
    """Outcomes of so many trials of a command, and how many times it was killed."""
    good, seconds = finish(name, prepare(name, work / "whole"))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        draw, folder = random.Random(1_000_003 * seed + number), prepare(name, work / f"trial{number}")
        for _ in range(draw.randint(1, 3)):
            child = start(name, folder)
            time.sleep(draw.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            outcomes["killed"] += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        try:
            outcome = "same" if finish(name, folder)[0] == good else "other"
        except RuntimeError as error:
            outcome = "failed"
            print(f"{name} {number}: {error}", file=sys.stderr)
        outcomes[outcome] += 1
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| command | trials | kills | same | other | failed |\n| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    failed = 0
    for name in options.commands:
        with tempfile.TemporaryDirectory() as work:
            outcomes = trials(name, Path(work), options.trials, options.seed)
        failed += outcomes["other"] + outcomes["failed"]
        print(
            f"| {name} | {options.trials} |",
            " | ".join(str(outcomes[key]) for key in ("killed", "same", "other", "failed")),
            "|",
            flush=True,
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
