"""What an export writes of its weights beside the program: names, types, and what each number means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LightningFwdError
from ..graph.constants import is_inserted
from ..graph.stored_as import StoredAs
from ..models.sealed_weights import load_sealed, save_sealed

TABLE = "weights_table.safetensors"  #: the file's name in the folder of an export
_VERSION, _HEAD = 1, "table"
_MEND = "give the weights_table.safetensors of the export that runs on the device; older exports have none: export again"


@dataclass(frozen=True)
class Stored:
    """One tensor of ``get_weights``.

    Attributes:
        name: as the exporter gives it out. model: the model's own name of it, or of the plain tensor that it stands for.
        dtype, shape: as on the device.
        memory: from the device's numbers to those that the rewritten model holds (integers). plain: from there to the plain model (folds,
            masks). None: the same numbers.
    """

    name: str
    model: str
    dtype: str
    shape: tuple[int, ...]
    memory: StoredAs | None = None
    plain: StoredAs | None = None

    @property
    def index(self) -> Tensor | None:
        """Which inputs of the model's tensor it holds; None: all."""
        return self.memory.index if self.memory else None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Table:
    """All tensors of ``get_weights``, in order, and what they belong to.

    Attributes:
        rule: repr of the rule. network: class of the model.
        model_hash, state_bytes: LFWD_MODEL_HASH and LFWD_STATE_BYTES; 0 and 0 of a program without a store.
        own_forward: whether inference is the plain model's own forward.
        frozen: names of the model's other tensors. digest: of their content, by :func:`digest_of`.
        folded: names of further ones, which were folded into others when the digest was made, and are not compared.
    """

    rule: str
    network: str
    model_hash: int
    state_bytes: int
    own_forward: bool
    tensors: tuple[Stored, ...]
    frozen: tuple[str, ...]
    digest: str
    folded: tuple[str, ...] = ()

    @property
    def weights_bytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


def digest_of(model: nn.Module, names: Iterable[str]) -> str:
    """SHA-256 over named tensors of a model's state, on the CPU."""
    state, digest = model.state_dict(), hashlib.sha256()
    for name in names:
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def frozen_names(model: nn.Module, learned: Iterable[str]) -> tuple[str, ...]:
    """A model's tensors that no step writes: none of the learned ones, by whatever name they are shared, and no counters of batches."""
    state, learned = model.state_dict(keep_vars=True), set(learned)
    places = {value.data_ptr() for name, value in state.items() if name in learned and value.numel()}
    return tuple(
        name for name, value in state.items()
        if name not in learned and value.data_ptr() not in places and not is_inserted(name) and not name.endswith("num_batches_tracked")
    )  # fmt: skip


def write_table(table: Table, folder: str | Path) -> Path:
    """Write it as ``weights_table.safetensors``, checksum included.

    Raises:
        LightningFwdError: it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    rows = []
    for number, stored in enumerate(table.tensors):
        row: dict[str, Any] = {"name": stored.name, "model": stored.model, "dtype": stored.dtype, "shape": list(stored.shape)}
        for kind in ("memory", "plain"):
            form: StoredAs | None = getattr(stored, kind)
            if form is not None:
                row[kind] = {"name": form.name, "exponents": form.exponents}
                tensors |= {f"{number}.{kind}.factor": form.factor.float().cpu(), f"{number}.{kind}.offset": form.offset.float().cpu()}
                if form.index is not None:
                    tensors[f"{number}.{kind}.index"] = form.index.cpu()
        rows.append(row)
    others = {
        name: getattr(table, name) for name in ("rule", "network", "model_hash", "state_bytes", "own_forward", "frozen", "digest", "folded")
    }
    head = json.dumps({"version": _VERSION, **others, "tensors": rows}).encode()
    file = Path(folder) / TABLE
    save_sealed({**tensors, _HEAD: torch.frombuffer(bytearray(head), dtype=torch.uint8)}, file)
    return file


def read_table(path: str | Path) -> Table:
    """The table of an export: its file, or the folder that holds it.

    Raises:
        LightningFwdError: it is missing, damaged, or of another version; names the file.
    """
    file = Path(path) / TABLE if Path(path).is_dir() else Path(path)
    content = load_sealed(file, "the weights table", _MEND)
    try:
        head = json.loads(content[_HEAD].numpy().tobytes())
        if head["version"] != _VERSION:
            raise ValueError(f"it has version {head['version']}, known is {_VERSION}")
        tensors = tuple(_stored(row, number, content) for number, row in enumerate(head["tensors"]))
        return Table(
            str(head["rule"]), str(head["network"]), int(head["model_hash"]), int(head["state_bytes"]), bool(head["own_forward"]), tensors,
            tuple(map(str, head["frozen"])), str(head["digest"]), tuple(map(str, head.get("folded", ()))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"it is no weights table: {type(error).__name__}: {error}"
        raise LightningFwdError(f"cannot read the weights table {str(file)!r}", why, _MEND) from error


def _stored(row: dict[str, Any], number: int, content: dict[str, Tensor]) -> Stored:
    forms = {
        kind: StoredAs(str(row[kind]["name"]), content[f"{number}.{kind}.factor"], content[f"{number}.{kind}.offset"],
                       str(row[kind]["exponents"]), content.get(f"{number}.{kind}.index"))
        for kind in ("memory", "plain") if kind in row
    }  # fmt: skip
    shape = tuple(int(n) for n in row["shape"])
    if not isinstance(getattr(torch, str(row["dtype"])), torch.dtype) or any(n < 0 for n in shape):
        raise ValueError(f"{row['name']}: {row['dtype']} {shape}")
    return Stored(str(row["name"]), str(row["model"]), str(row["dtype"]), shape, **forms)
