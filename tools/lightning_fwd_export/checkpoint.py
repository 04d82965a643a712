"""What a training run left behind, as options of the export: a Lightning recipe, and what a rule inserted into a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from lightning_fwd.errors import LightningFwdError
from lightning_fwd.graph.constants import COUNTER, is_inserted
from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.import_path import named
from lightning_fwd.methods import LearningMethod, get_method
from lightning_fwd.models.weights import prefix_of
from lightning_fwd.strict_yaml import load_yaml

from .errors import ExportError


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Settings of a recipe that ``lightning-fwd fit`` runs: ``model``, ``model_args``, ``method``, ``lr``, ``momentum``, ``dataset``,
    ``normalize``,
    ``data`` (class and arguments), those that it states.

    Raises:
        ExportError: the file is missing, no YAML, or does not name a model as ``lightning_fwd.Classifier`` takes it.
    """
    try:
        recipe = load_yaml(Path(path).read_text())
        arguments = recipe["model"]["init_args"]
        found = {key: arguments[key] for key in ("model", "model_args", "lr", "momentum") if key in arguments}
        found["data"] = recipe.get("data") or {}
        data = found["data"].get("init_args") or {}
        found |= {key: data[key] for key in ("dataset", "normalize") if data.get(key) is not None}
        strategy = (recipe.get("trainer") or {}).get("strategy", "backprop")
        if isinstance(strategy, Mapping):
            strategy = (strategy.get("init_args") or {}).get("method", "backprop")
        found["method"] = strategy if isinstance(strategy, str) else _method(strategy)
        if not isinstance(found["model"], str):
            raise TypeError("model is no name")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{path} is no recipe of lightning-fwd fit",
            f"{type(error).__name__}: {error}",
            "it needs model: {class_path: lightning_fwd.Classifier, init_args: {model: NAME}}; see recipes/",
        ) from error
    return found


def sample_shape(data: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Shape of one sample of a recipe's data, without the batch: what the data module says, else its first training batch; None without
    data."""
    if not data:
        return None
    module = _make({"class_path": "lightning_fwd.data.DriftDataModule", **data}, L.LightningDataModule, "data")
    if (shape := getattr(module, "input_shape", None)) is not None:
        return tuple(shape)
    module.prepare_data()
    module.setup("fit")
    return tuple(next(iter(module.train_dataloader()))[0].shape[1:])


def _method(node: Mapping[str, Any]) -> LearningMethod:
    return get_method(_make(node, LearningMethod, "method"))


def _make(node: Any, kind: type, what: str) -> Any:
    """An instance of what ``class_path`` names, its arguments from ``init_args``; nothing but a class of this kind is ever called.

    Raises:
        ExportError: it names something else, or cannot be made so.
    """
    arguments = node.get("init_args") or {} if isinstance(node, Mapping) else None
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise ExportError(
            f"{what} is {node!r}", "expected a class and its arguments", f"write {what}: {{class_path: ..., init_args: {{...}}}}"
        )
    try:
        made = named(node.get("class_path"), kind, what)(**arguments)
    except LightningFwdError:
        raise
    except Exception as error:  # whatever a class of the user's makes of its arguments
        raise ExportError(
            f"{what} {node.get('class_path')!r} cannot be made", f"{type(error).__name__}: {error}", "see its arguments"
        ) from error
    if not isinstance(made, kind):
        raise ExportError(
            f"{what} {node.get('class_path')!r} gave a {type(made).__name__}", "", f"name a class that derives from {kind.__name__}"
        )
    return made


def load_inserted(model: RewrittenModel, checkpoint: Mapping[str, Any]) -> None:
    """Give a rewritten model the heads, feedback and counters of a checkpoint that the same rule wrote; of another rule, nothing, with a
    warning."""
    saved = checkpoint.get("lightning_fwd") or {}
    if saved.get("method") != repr(model.method):
        if dropped := [key for key in saved.get("inserted", {}) if not key.endswith(COUNTER)]:
            warnings.warn(
                f"the checkpoint holds {len(dropped)} tensors that its rule inserted "
                f"({', '.join(dropped[:3])}{', ...' if dropped[3:] else ''}); "
                f"the program starts without them: it was written by {saved['method']}, this is {model.method!r}. "
                "To ship them, export with the settings of the checkpoint (-c RECIPE takes them from its recipe).",
                stacklevel=2,
            )
        return
    own = {key: value for key, value in model.state_dict().items() if is_inserted(key)}
    prefix = prefix_of(saved["inserted"], own)
    if own and prefix is not None:
        model.load_state_dict({key: saved["inserted"][prefix + key] for key in own}, strict=False)
