"""Trained weights from a file into a network: what Lightning, torch, safetensors and Keras write, never unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import LightningFwdError
from .keras_weights import load_keras_weights

KERAS = (".npz", ".h5", ".hdf5")  #: endings of files that :func:`load_keras_weights` reads
_UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, ValueError, EOFError, KeyError, SafetensorError)


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Put trained weights into a network.

    Args:
        path: a checkpoint of Lightning, a saved ``state_dict``, a ``.safetensors`` file, or Keras weights (``.npz`` of ``layer/weight``, ``.h5``).

    Raises:
        LightningFwdError: the file cannot be read, or does not fit; the network is unchanged then.
    """
    if Path(path).suffix not in KERAS:
        load_state(net, read_checkpoint(path), str(path))
        return
    try:
        load_keras_weights(net, path)
    except (OSError, ValueError) as error:
        raise LightningFwdError(f"cannot load the weights {path}", str(error)) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, a saved ``state_dict`` or a ``.safetensors`` file: ``{"state_dict": ..., ...}``.

    Raises:
        LightningFwdError: the file is missing, damaged, or holds other objects than tensors and plain values.
    """
    path = Path(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise LightningFwdError(
            f"cannot read {path}",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "give a checkpoint of Lightning, a saved state_dict or a .safetensors file",
        ) from error
    if not isinstance(content, Mapping):
        raise LightningFwdError(f"{path} holds a {type(content).__name__}, no weights", "", "save model.state_dict()")
    return dict(content) if isinstance(content.get("state_dict"), Mapping) else {"state_dict": dict(content)}


def load_state(net: nn.Module, checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> None:
    """Put a checkpoint's weights into a network, whatever the LightningModule around it calls it (``network.``, ``model.``, nothing).

    Args:
        name: of the checkpoint, for errors.

    Raises:
        LightningFwdError: keys or shapes do not fit, or a weight is not finite; the network is unchanged then.
    """
    state, own = checkpoint["state_dict"], net.state_dict()
    prefix = prefix_of(state, own)
    if prefix is None:
        raise LightningFwdError(
            f"{name} does not belong to this model",
            f"the model has {', '.join(list(own)[:4])} ..., the checkpoint {', '.join(map(str, list(state)[:4]))} ...",
            "give the model and the model arguments it was trained with",
        )
    for key, value in own.items():
        saved = state[prefix + key]
        if not isinstance(saved, Tensor) or saved.shape != value.shape:
            raise LightningFwdError(
                f"{prefix + key} has shape {tuple(getattr(saved, 'shape', ()))} in {name}, {tuple(value.shape)} in the model",
                "", "give the model arguments it was trained with",
            )  # fmt: skip
    require_finite({prefix + key: state[prefix + key] for key in own})
    net.load_state_dict({key: state[prefix + key] for key in own})


def prefix_of(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """What stands before every key of ``own`` in ``state``; None where there is no such thing."""
    if not own:
        return None
    first = next(iter(own))
    candidates = [key.removesuffix(first) for key in map(str, state) if key == first or key.endswith("." + first)]
    return next((p for p in candidates if all(p + key in state for key in own)), None)


def require_finite(state: Mapping[str, Tensor]) -> None:
    """Refuse weights from which no training recovers.

    Raises:
        LightningFwdError: a weight is NaN or infinite.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise LightningFwdError(
            f"{', '.join(bad[:4])} {'is' if len(bad) == 1 else 'are'} not finite",
            "no training step recovers from NaN or infinite weights",
            "take a checkpoint from before they broke",
        )
