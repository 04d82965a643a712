"""What a training run left behind, as options of the export: a Lightning recipe and a checkpoint of weights."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lightning_fwd.graph.rewritten import RewrittenModel
from lightning_fwd.graph.strict_yaml import load_yaml
from lightning_fwd.methods import LearningMethod, get_method

from .errors import ExportError


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Settings of a recipe that ``lightning-fwd fit`` runs: ``model``, ``model_args``, ``method``, ``lr``, ``momentum``, ``dataset``, ``normalize``,
    those that it states.

    Raises:
        ExportError: the file is missing, no YAML, or does not name a model as ``lightning_fwd.Classifier`` takes it.
    """
    try:
        recipe = load_yaml(Path(path).read_text())
        arguments = recipe["model"]["init_args"]
        found = {key: arguments[key] for key in ("model", "model_args", "lr", "momentum") if key in arguments}
        data = (recipe.get("data") or {}).get("init_args") or {}
        found |= {key: data[key] for key in ("dataset", "normalize") if data.get(key) is not None}
        strategy = (recipe.get("trainer") or {}).get("strategy", "backprop")
        if isinstance(strategy, Mapping):
            strategy = (strategy.get("init_args") or {}).get("method", "backprop")
        found["method"] = strategy if isinstance(strategy, str) else _method(strategy)
        if not isinstance(found["model"], str):
            raise TypeError("model is no name")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is no recipe of lightning-fwd fit", f"{type(error).__name__}: {error}",
                          "it needs model: {class_path: lightning_fwd.Classifier, init_args: {model: NAME}}; see recipes/") from error
    return found


def _method(node: Mapping[str, Any]) -> LearningMethod:
    module, _, name = node["class_path"].rpartition(".")
    made = getattr(importlib.import_module(module), name)(**(node.get("init_args") or {}))
    return get_method(made)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, a saved ``state_dict`` or a ``.safetensors`` file, never unpickled: ``{"state_dict": ..., ...}``.

    Raises:
        ExportError: the file is missing, damaged, or holds other objects than tensors and plain values.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {"state_dict": load_file(path)}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, ValueError, EOFError, KeyError) as error:
        raise ExportError(f"cannot read {path}", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                          "give a checkpoint of Lightning, a saved state_dict or a .safetensors file") from error
    except Exception as error:  # safetensors has an exception class of its own
        raise ExportError(f"cannot read {path}", f"{type(error).__name__}: {error}", "export the weights again") from error
    if not isinstance(content, Mapping):
        raise ExportError(f"{path} holds a {type(content).__name__}, no weights", "", "save model.state_dict()")
    return dict(content) if "state_dict" in content else {"state_dict": dict(content)}


def load_weights(net: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights into a network, whatever the LightningModule around it calls it (``network.``, ``model.``, nothing).

    Raises:
        ExportError: keys or shapes do not fit, or a weight is not finite; the network is unchanged then.
    """
    state, own = checkpoint["state_dict"], net.state_dict()
    prefix = _prefix(state, own)
    if prefix is None:
        raise ExportError("the checkpoint does not belong to this model",
                          f"the model has {', '.join(list(own)[:4])} ..., the checkpoint {', '.join(list(state)[:4])} ...",
                          "give the --model and --model-args it was trained with")
    for key, value in own.items():
        saved = state[prefix + key]
        if not isinstance(saved, Tensor) or saved.shape != value.shape:
            raise ExportError(f"{prefix + key} has shape {tuple(getattr(saved, 'shape', ()))} in the checkpoint, {tuple(value.shape)} in the model",
                              "", "give the --model-args it was trained with")
    _require_finite({prefix + key: state[prefix + key] for key in own})
    net.load_state_dict({key: state[prefix + key] for key in own})


def load_inserted(model: RewrittenModel, checkpoint: Mapping[str, Any]) -> None:
    """Give a rewritten model the heads, feedback and counters of a checkpoint that the same rule wrote; of another rule, nothing, with a warning."""
    saved = checkpoint.get("lightning_fwd") or {}
    if saved.get("method") != repr(model.method):
        if dropped := [key for key in saved.get("inserted", {}) if not key.endswith("_lfwd.counter")]:
            warnings.warn(
                f"the checkpoint holds {len(dropped)} tensors that its rule inserted ({', '.join(dropped[:3])}{', ...' if dropped[3:] else ''}); "
                f"the program starts without them: it was written by {saved['method']}, this is {model.method!r}. "
                "To ship them, export with the settings of the checkpoint (-c RECIPE takes them from its recipe).",
                stacklevel=2,
            )
        return
    own = {key: value for key, value in model.state_dict().items() if key.startswith("_lfwd.")}
    prefix = _prefix(saved["inserted"], own)
    if own and prefix is not None:
        model.load_state_dict({key: saved["inserted"][prefix + key] for key in own}, strict=False)


def _prefix(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """What stands before every key of ``own`` in ``state``."""
    if not own:
        return None
    first = next(iter(own))
    candidates = [key.removesuffix(first) for key in state if key == first or key.endswith("." + first)]
    return next((p for p in candidates if all(p + key in state for key in own)), None)


def require_finite(model: nn.Module) -> None:
    """Refuse weights that are not finite: the device would start from them and never recover."""
    _require_finite(model.state_dict())


def _require_finite(state: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ExportError(f"{', '.join(bad[:4])} {'is' if len(bad) == 1 else 'are'} not finite",
                          "no training step recovers from NaN or infinite weights", "export from a checkpoint before they broke")
