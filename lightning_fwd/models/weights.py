"""Trained weights from a file into a network: what Lightning, torch, safetensors and Keras write, never unpickled."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError
from ..plain_files import check_archive, require_file
from .keras_weights import load_keras_weights
from .sealed_weights import load_sealed

KERAS = (".npz", ".h5", ".hdf5")  #: endings of files that :func:`load_keras_weights` reads
_MEND = "give a checkpoint of Lightning, a saved state_dict, a .safetensors file, or Keras .npz or .h5"
_NAMED = ("state_dict", "model_state_dict")  #: keys under which people keep the weights of a checkpoint of their own


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Put trained weights into a network.

    Args:
        path: a checkpoint of Lightning, a saved ``state_dict``, a ``.safetensors`` file, or Keras weights (``.npz`` of ``layer/weight``,
            ``.h5``).

    Raises:
        LightningFwdError: the file cannot be read, or does not fit; the network is unchanged then.
    """
    if Path(path).suffix not in KERAS:
        load_state(net, read_checkpoint(path), str(path))
        return
    require_file(path, "the weights", _MEND)
    try:
        load_keras_weights(net, path)
    except (OSError, ValueError) as error:
        raise LightningFwdError(f"cannot load the weights {path}", str(error), _MEND) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, a saved ``state_dict`` or a ``.safetensors`` file: ``{"state_dict": ..., ...}``.

    Raises:
        LightningFwdError: the file is missing, damaged, or holds other objects than tensors and plain values, or no weights.
    """
    content = load_sealed(path, mend=_MEND) if Path(path).suffix == ".safetensors" else read_plain(path, "the weights", _MEND)
    if not isinstance(content, Mapping):
        raise LightningFwdError(f"{path} holds a {type(content).__name__}, no weights", "", "save model.state_dict()")
    if any(isinstance(value, Tensor) for value in content.values()):
        return {"state_dict": dict(content)}
    inner = [key for key in _NAMED if isinstance(content.get(key), Mapping)]
    inner = inner or [key for key, value in content.items() if isinstance(value, Mapping) and _holds_tensors(value)]
    if not inner or (len(inner) > 1 and inner[0] not in _NAMED):
        raise LightningFwdError(
            f"{path} holds no weights" if not inner else f"{path} holds several sets of weights: {', '.join(map(str, inner))}",
            f"it has {', '.join(map(str, list(content)[:8])) or 'nothing'}",
            "save model.state_dict(), or keep it under the key state_dict",
        )
    return {**content, "state_dict": dict(content[inner[0]])}


def _holds_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values.values())


def read_plain(path: str | Path, what: str, mend: str) -> Any:
    """What ``torch.save`` wrote, of tensors and plain values only, on the CPU.

    torch's own words on a file that it cannot read advise ``weights_only=False``, which would execute what the file holds: they are not
    passed on.

    Args:
        what: what it was to be ("the checkpoint"). mend: what the user can do.

    Raises:
        LightningFwdError: it is missing, damaged or holds anything else; names the file.
    """
    path = require_file(path, what, mend)
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (Exception, RecursionError) as error:  # a damaged file meets the reader anywhere
        held = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        why = f"it is damaged ({type(error).__name__})"
        if held is not None:
            why = f"it is damaged, or holds {held[1]}, which is neither a tensor nor a plain value and might run"
        elif isinstance(error, ValueError):  # of check_archive
            why = str(error)
        raise LightningFwdError(f"cannot read {what} {str(path)!r}", why, mend) from error


def load_state(net: nn.Module, checkpoint: Mapping[str, Any], name: str = "the checkpoint") -> None:
    """Put a checkpoint's weights into a network, whatever the LightningModule around it calls it (``network.``, ``model.``, nothing).

    Args:
        name: of the checkpoint, for errors.

    Raises:
        LightningFwdError: keys, shapes or kinds do not fit, or a weight is not finite; the network is unchanged then.
    """
    state, own = checkpoint["state_dict"], net.state_dict()
    prefix = prefix_of(state, own)
    if prefix is None:
        raise LightningFwdError(
            f"{name} does not belong to this model", _unlike(state, own), "give the model and the model arguments it was trained with"
        )
    for key, value in own.items():
        saved = state[prefix + key]
        if not isinstance(saved, Tensor) or saved.shape != value.shape:
            raise LightningFwdError(
                f"{prefix + key} has shape {tuple(getattr(saved, 'shape', ()))} in {name}, {tuple(value.shape)} in the model",
                "", "give the model arguments it was trained with",
            )  # fmt: skip
        if not _is_plain(saved) or (saved.is_floating_point(), saved.is_complex()) != (value.is_floating_point(), value.is_complex()):
            raise LightningFwdError(
                f"{prefix + key} is a {saved.layout} tensor of {saved.dtype} on {saved.device} in {name}, of {value.dtype} in the model",
                "such values would be rounded or lost",
                "save plain floating-point weights: model.float().cpu().state_dict()",
            )
    require_finite({prefix + key: state[prefix + key] for key in own}, name)
    net.load_state_dict({key: state[prefix + key] for key in own})


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _unlike(state: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Which weights of the model a checkpoint lacks, by the prefix under which it has most of them."""
    names = list(map(str, state))
    first = {key.removesuffix(mine) for mine in own for key in names if key == mine or key.endswith("." + mine)}
    held = set(names)
    best = max(sorted(first), key=lambda prefix: sum(prefix + key in held for key in own), default=None)
    if best is None:
        return f"the model has {_some(own)}, the checkpoint {_some(names)}"
    missing = [best + key for key in own if best + key not in held]
    unknown = [key for key in names if key.startswith(best) and key.removeprefix(best) not in own]
    return f"it lacks {_some(missing)}" + (f"; of no use to the model are {_some(unknown)}" if unknown else "")


def _some(names: Any, most: int = 8) -> str:
    names = list(names)
    return f"{', '.join(names[:most]) or 'nothing'}{f' and {len(names) - most} more' if len(names) > most else ''}"


def prefix_of(state: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """What stands before every key of ``own`` in ``state``; None where there is no such thing."""
    if not own:
        return None
    first = next(iter(own))
    candidates = [key.removesuffix(first) for key in map(str, state) if key == first or key.endswith("." + first)]
    return next((p for p in candidates if all(p + key in state for key in own)), None)


def require_finite(state: Mapping[str, Tensor], name: str = "") -> None:
    """Refuse weights from which no training recovers.

    Args:
        name: of the file they are from, for errors.

    Raises:
        LightningFwdError: a weight is NaN or infinite, or a running variance below 0.
    """
    where = f"{name}: " if name else ""
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise LightningFwdError(
            f"{where}{', '.join(bad[:4])} {'is' if len(bad) == 1 else 'are'} not finite",
            "no training step recovers from NaN or infinite weights",
            "take a checkpoint from before they broke",
        )
    bad = [key for key, value in state.items() if key.endswith("running_var") and (value < 0).any()]
    if bad:
        raise LightningFwdError(
            f"{where}{', '.join(bad[:4])} below 0", "no variance is: the file is damaged", "take another copy of the file"
        )
