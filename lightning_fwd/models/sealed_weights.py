"""Tensors in a .safetensors file with their checksum beside them: the format has none, and a bit that flips there gives other weights in
silence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import LightningFwdError
from ..plain_files import naming, require_file

_SEAL = "lightning_fwd.sha256"  #: key of the file's metadata


def save_sealed(tensors: Mapping[str, Tensor], file: str | Path, **notes: str) -> None:
    """Write tensors, whole or not at all: a run that is killed here leaves no half file behind.

    Args:
        notes: what else the file's metadata say.

    Raises:
        LightningFwdError: it cannot be written; names the file.
    """
    file, kept = Path(file), {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    part = file.with_name(file.name + ".part")
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(kept, part, {**notes, _SEAL: _digest(kept)})
        except SafetensorError as error:  # what it makes of the disk's errors
            raise OSError(str(error)) from error
        part.replace(file)


def load_sealed(file: str | Path, what: str = "the weights", mend: str = "") -> dict[str, Tensor]:
    """All tensors of a .safetensors file; where it has a checksum, they are held against it.

    Args:
        what: what it was to be. mend: what the user can do.

    Raises:
        LightningFwdError: it is missing or damaged; names the file.
    """
    require_file(file, what, mend)
    try:
        with safe_open(file, "pt") as stored:
            seal = (stored.metadata() or {}).get(_SEAL)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    except Exception as error:  # a damaged file meets the reader anywhere
        raise LightningFwdError(f"cannot read {what} {str(file)!r}", f"it is damaged: {type(error).__name__}: {error}", mend) from error
    if seal is not None and seal != _digest(tensors):
        raise LightningFwdError(
            f"cannot read {what} {str(file)!r}", "it is damaged: its tensors do not have the checksum that it states", mend
        )
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
