"""Ways of changing a file that know its format: keys, values, headers, arrays; what is written is whole again."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mutations import edited_text

Edit = Callable[[bytes, random.Random], bytes]


def resaved(change: Callable[[dict, random.Random], None], old_format: bool = False) -> Edit:
    """An edit of what torch saved: changed and saved again, checksums right."""

    def edited(data: bytes, draw: random.Random) -> bytes:
        file = Path("edited.part")
        file.write_bytes(data)
        content = torch.load(file, weights_only=True)
        change(content, draw)
        torch.save(content, file, _use_new_zipfile_serialization=not old_format)
        return file.read_bytes()

    return edited


def change_values(content: dict, draw: random.Random) -> None:
    """Somewhere in a tree of dicts: a key left out or renamed, a value of another kind, shape or size."""
    while True:
        key = draw.choice(list(content))
        if not (isinstance(content[key], dict) and content[key] and draw.random() < 0.7):
            break
        content = content[key]
    value, how = content[key], draw.randrange(6)
    if how == 0:
        del content[key]
    elif how == 1:
        content[f"{key}x"] = content.pop(key)
    elif how == 2:
        content[key] = draw.choice((None, -1, 1 << 80, float("nan"), "x", [], {}, [[1]], b"x", torch.zeros(3), {"a": {"b": torch.ones(2)}}))
    elif isinstance(value, torch.Tensor):
        others = (
            value * float("nan"),
            value[..., None],
            value.reshape(-1)[:1],
            value.to(torch.int32),
            value.to(torch.complex64),
            value.to_sparse(),
        )
        content[key] = draw.choice(others)
    else:
        content[key] = torch.zeros(1).expand(1 << 40)


def header(data: bytes, draw: random.Random) -> bytes:
    """An edit of a .safetensors file's own table: names, types, shapes and offsets."""
    size = int.from_bytes(data[:8], "little")
    edited = edited_text(data[8 : 8 + size], draw)
    return len(edited).to_bytes(8, "little") + edited + data[8 + size :]


def arrays(data: bytes, draw: random.Random) -> bytes:
    """An edit of an .npz: an array left out, of another kind or shape, or with values that cannot be."""
    file = Path("edited.npz")
    file.write_bytes(data)
    with np.load(file) as archive:
        content = dict(archive)
    key = draw.choice(list(content))
    value = content.pop(key)
    changed = [
        value[:0],
        value[..., None],
        value.astype("U4"),
        np.zeros((1, 2, 3)),
        value[:1],
        np.zeros(1 << 28, "u1"),
        value.astype(object),
    ]
    if value.dtype.kind != "U":
        changed += [-value.astype(float), value * np.nan, -value.astype("i8"), value.astype("i8") + 7]
    if draw.random() < 0.85:
        content[key] = draw.choice(changed)
    np.savez_compressed(file, **content)
    return file.read_bytes()
