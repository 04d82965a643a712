"""Good recipes, schemes, devices and checkpoints, and what the library reads from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from good_weights import DATA, NET, digest

import lightning_fwd as lf
from lightning_fwd.compare import Scenario, load_scenario
from lightning_fwd.cost import load_device
from lightning_fwd.methods.scheme import write_scheme
from lightning_fwd.models import build
from lightning_fwd.recipes.adaptation import load_adaptation
from lightning_fwd.search import Space, load_search

SCENARIO = {"data": DATA, "model": "mlp", "model_args": NET, "seeds": [0, 1], "adapt_samples": 40, "controls": False,
            "rows": [{"name": "none"}, {"name": "pepita", "method": "pepita", "lr": 0.01}]}  # fmt: skip


ADAPTATION = {"data": DATA, "model": "mlp", "model_args": NET, "labelled": 60, "device": "stm32h735",
              "stages": ["statistics", {"method": "sparse_update", "settings": {"train": "head"}, "lr": [0.01, 0.1],
              "epochs": 3}]}  # fmt: skip
SEARCH = {"data": {"dataset": "digits", "flatten": True}, "model": "mlp", "model_args": NET, "drifts": ["noise=0.1"],
          "budget": {"ram": "64KB"}, "lr": 0.01, "fractions": [0.5, 1.0], "samples": 50, "pretrain": {"epochs": 2}}  # fmt: skip


# ---- checkpoints and recipes of Lightning

QUIET = [
    "--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
    "--trainer.enable_checkpointing=false", "--test_after_fit=false",
]  # fmt: skip


def fit(*arguments: str) -> None:
    from lightning_fwd.cli.lightning import run

    run(["fit", *QUIET, *arguments])


def checkpoint_file(folder: Path) -> Path:
    import lightning as L

    trainer = L.Trainer(
        max_epochs=1, strategy="local_loss", accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(lf.Classifier("mlp", NET), lf.data.DriftDataModule("digits", flatten=True, train_samples=64))
    trainer.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


def read_checkpoint(path: Path) -> str:
    """What is read; and a fit of one more epoch goes on from it."""
    data = ["--data.dataset=digits", "--data.flatten=true", "--data.train_samples=64", f"--model.model_args={NET}"]
    fit("--trainer.strategy=local_loss", "--trainer.max_epochs=2", "--trainer.limit_val_batches=0", *data, f"--ckpt_path={path}")
    return digest(torch.load(path, weights_only=True)["state_dict"].items())


def lightning_recipe(folder: Path) -> Path:
    content = {
        "seed_everything": 0,
        "model": {"class_path": "lightning_fwd.Classifier", "init_args": {"model": "mlp", "model_args": NET, "lr": 0.05, "momentum": 0.9}},
        "data": {"class_path": "lightning_fwd.data.DriftDataModule", "init_args": {"dataset": "digits", "flatten": True, "batch_size": 32}},
        "trainer": {"max_epochs": 1, "strategy": {"class_path": "lightning_fwd.ForwardOnlyStrategy", "init_args": {
            "method": {"class_path": "lightning_fwd.Pepita", "init_args": {"seed": 3}}}}},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def yaml_file(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return folder / name

    return make


def read_scenario(path: Path) -> Scenario:
    scenario = load_scenario(path)
    scenario.check()
    return scenario


def read_search(path: Path) -> Any:
    spec = load_search(path)
    Space.of(build(spec.model, **spec.model_args), torch.zeros(2, 64), spec.fractions)
    return spec


def read_adaptation(path: Path) -> Any:
    recipe = load_adaptation(path)
    recipe.built_stages()
    for view in ("source", "target"):
        recipe.data_module(view).prepare_data()
    build(recipe.model, **recipe.model_args)
    return recipe


def scheme_file(folder: Path) -> Path:
    write_scheme(folder / "scheme.yaml", {"fc1": [0, 5, 9, 33], "classifier": 0.5}, ["classifier"], {"budget": "64 KB RAM"})
    return folder / "scheme.yaml"


def device_file(folder: Path) -> Path:
    (folder / "own.yaml").write_bytes((Path(lf.__file__).parent / "cost" / "devices" / "stm32g474re.yaml").read_bytes())
    return folder / "own.yaml"


def read_device(path: Path) -> Any:
    device = load_device(path)
    return device, device.latency_s({"forward": 1000}, "int8") if "int8" in device.cycles_per_mac else None
