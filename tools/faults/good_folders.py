"""Good files of runs, data and devices, and what the library reads from one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from good_recipes import SCENARIO
from good_weights import NET, digest

import lightning_fwd as lf
from lightning_fwd.compare import Scenario, load_scenario
from lightning_fwd.compare.folder import Result, open_folder, save
from lightning_fwd.data import load_dataset
from lightning_fwd.device_weights import TABLE, Stored, Table, digest_of, read_table, write_table
from lightning_fwd.models import MLP
from lightning_fwd.search import Space
from lightning_fwd.search.kept import measurement, read_measurements


def resumed_folder(folder: Path) -> Scenario:
    (folder / "recipe.yml").write_text(yaml.safe_dump(SCENARIO))
    scenario, out = load_scenario(folder / "recipe.yml"), folder / "out"
    results = [Result(row.name, seed, 97.5, 61.25, 80.125 + seed, 1234, 5678, 910, 0.0012, 30, 95.5, 4321, 0.25) for row in scenario.rows
               for seed in scenario.seeds]  # fmt: skip
    open_folder(scenario, out)
    save(scenario, results, out)
    return scenario


def in_folder(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        resumed_folder(folder)
        return folder / "out" / name

    return make


def read_folder(path: Path) -> list[str]:
    """The results that are taken over; the folder's recipe is written anew, as a run would."""
    return [repr(result) for result in open_folder(load_scenario(path.parents[1] / "recipe.yml"), path.parent)]


def measurements_file(folder: Path) -> Path:
    lines = [measurement((a, b, 0), drift, 50.0 + a + b) for a in range(3) for b in range(3) for drift in ("noise=0.1", "blur=3")]
    (folder / "contributions.csv").write_text("".join(lines))
    return folder / "contributions.csv"


def read_measured(path: Path) -> list[str]:
    space = Space((("fc1",), ("classifier",)), (0.25, 0.5, 1.0))
    return list(map(repr, read_measurements(path, space, ["noise=0.1", "blur=3"]).items()))


def samples_file(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8), "u1"), np.arange(60, dtype="i4") % 3
    np.savez_compressed(folder / "own.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], classes=np.array(["a", "b", "c"]))
    return folder / "own.npz"


def read_samples(path: Path) -> Any:
    found = load_dataset(str(path))
    return found.classes, *(getattr(found, key).tobytes() for key in ("x_train", "y_train", "x_test", "y_test"))


def program_file(folder: Path) -> Path:
    from lightning_fwd_export import export

    net = lf.rewrite(MLP(8, (4,), 3).eval(), "backprop", torch.rand(2, 8))
    export(net, (torch.rand(2, 8), torch.zeros(2, dtype=torch.int64)), folder / "exported", steps=2)
    return folder / "exported" / "step.pte"


def read_program(path: Path) -> Any:
    from lightning_fwd_export.generate_c import pte_to_c

    return sorted(pte_to_c(path, path.parent / "c").methods)


def learned(folder: Path) -> None:
    """A table as an export of an MLP would write it."""
    net = MLP(**NET)
    tensors = tuple(Stored(name, name, "float32", tuple(p.shape)) for name, p in net.named_parameters())
    state_bytes = 8 + sum(t.nbytes for t in tensors)
    write_table(Table("Backprop()", "MLP", 0xC0FFEE42, state_bytes, True, tensors, (), digest_of(net, ())), folder)


def weights_table_file(folder: Path) -> Path:
    learned(folder)
    return folder / TABLE


def slots_file(folder: Path) -> Path:
    """A dump of two slots of ``lfwd_store.h`` with the same weights: whichever is whole gives them."""
    learned(folder)
    torch.manual_seed(1)
    table, dump = read_table(folder), b""
    state = b"".join(p.detach().numpy().tobytes() for p in MLP(**NET).parameters()) + bytes(8)
    for number in (3, 4):
        head = struct.pack("<4s5I", b"LFWD", 1, table.model_hash, number, table.state_bytes, table.weights_bytes)
        dump += head + state + zlib.crc32(head + state).to_bytes(4, "little") + b"\xff" * 8
    (folder / "flash.bin").write_bytes(dump)
    return folder / "flash.bin"


def read_back(path: Path) -> str:
    """What came into a network, of a table with weights of zero."""
    net, weights = MLP(**NET), path.parent / "flash.bin"
    if path.name == TABLE:
        weights.write_bytes(bytes(read_table(path).weights_bytes))
    lf.load_device_weights(net, weights)
    return digest(net.state_dict().items())
