"""What is mutated: per kind of file a good one, and how the library reads it."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from edits import Edit, arrays, change_values, header, resaved
from mutations import edited_text
from safetensors.torch import save_file

import lightning_fwd as lf
from lightning_fwd.compare import Scenario, load_scenario
from lightning_fwd.compare.folder import Result, open_folder, save
from lightning_fwd.cost import load_device
from lightning_fwd.data import load_dataset
from lightning_fwd.device_weights import TABLE, Stored, Table, digest_of, read_table, write_table
from lightning_fwd.methods.scheme import read_scheme, write_scheme
from lightning_fwd.models import MLP, SmallConv, build, load_weights
from lightning_fwd.recipes import pretrained, store_weights
from lightning_fwd.recipes.adaptation import load_adaptation
from lightning_fwd.search import Space, load_search
from lightning_fwd.search.kept import measurement, read_measurements

NET = {"in_features": 64, "hidden": [12]}
DATA = {"dataset": "digits", "drift": "noise=0.1", "flatten": True}
SCENARIO = {"data": DATA, "model": "mlp", "model_args": NET, "seeds": [0, 1], "adapt_samples": 40, "controls": False,
            "rows": [{"name": "none"}, {"name": "pepita", "method": "pepita", "lr": 0.01}]}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: writes a good one into a folder and returns its path. read: what the library makes of one, to be compared by ``==``.
        edits: ways of changing it that know its format. sealed: whether it bears a checksum, so that no damage may be read as content.
        rows: whether its content is a collection of rows of which some may be missing: those are measured again.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    edits: tuple[Edit, ...] = ()
    sealed: bool = False
    rows: bool = False

    def covers(self, good: Any, content: Any) -> bool:
        return set(content) <= set(good) if self.rows else content == good

    def names_file(self, said: str, path: Path) -> bool:
        """Whether an error says which file it is about; of a recipe the command line adds it."""
        return path.name in said or path.suffix in (".yaml", ".yml")


def _digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in tensors:
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _weights(path: Path, net: Callable[[], torch.nn.Module] = lambda: MLP(**NET)) -> str:
    made = net()
    load_weights(made, path)
    return _digest(made.state_dict().items())


# ---- weights


def _save(name: str, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        torch.save(MLP(**NET).state_dict(), folder / name, **how)
        return folder / name

    return make


def _safetensors(folder: Path) -> Path:
    torch.manual_seed(0)
    save_file(MLP(**NET).state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"


def _keras_layers() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    net = MLP(**NET)
    found = {}
    for name, layer in (("dense", net.fc1), ("dense_1", net.classifier)):
        found |= {f"{name}/kernel": layer.weight.detach().T.numpy(), f"{name}/bias": layer.bias.detach().numpy()}
    return found


def _keras_npz(folder: Path) -> Path:
    np.savez(folder / "w.npz", **_keras_layers())
    return folder / "w.npz"


def _keras_h5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "w.h5", "w") as file:
        for key, value in _keras_layers().items():
            layer, weight = key.split("/")
            file[f"model_weights/{layer}/{layer}/{weight}:0"] = value
    return folder / "w.h5"


def _pretrained(folder: Path) -> Path:
    torch.manual_seed(0)
    store_weights(MLP(**NET), folder / "seed0.safetensors")
    return folder / "seed0.safetensors"


def _moments(folder: Path) -> Path:
    torch.manual_seed(0)
    lf.source_moments(SmallConv(1, (4, 8)), [torch.rand(64, 1, 8, 8)], folder / "source.safetensors", samples=64)
    return folder / "source.safetensors"


def _read_moments(path: Path) -> str:
    torch.manual_seed(0)
    model = lf.rewrite(SmallConv(1, (4, 8)).eval(), lf.Alignment(source=str(path)), torch.rand(4, 1, 8, 8))
    return _digest(model.state_dict().items())


# ---- checkpoints and recipes of Lightning

_QUIET = [
    "--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu",
    "--trainer.enable_checkpointing=false", "--test_after_fit=false",
]  # fmt: skip


def _fit(*arguments: str) -> None:
    from lightning_fwd.cli.lightning import run

    run(["fit", *_QUIET, *arguments])


def _checkpoint(folder: Path) -> Path:
    import lightning as L

    trainer = L.Trainer(
        max_epochs=1, strategy="local_loss", accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(lf.Classifier("mlp", NET), lf.data.DriftDataModule("digits", flatten=True, train_samples=64))
    trainer.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


def _resume(path: Path) -> str:
    """What is read; and a fit of one more epoch goes on from it."""
    data = ["--data.dataset=digits", "--data.flatten=true", "--data.train_samples=64", f"--model.model_args={NET}"]
    _fit("--trainer.strategy=local_loss", "--trainer.max_epochs=2", "--trainer.limit_val_batches=0", *data, f"--ckpt_path={path}")
    return _digest(torch.load(path, weights_only=True)["state_dict"].items())


def _recipe(folder: Path) -> Path:
    content = {
        "seed_everything": 0,
        "model": {"class_path": "lightning_fwd.Classifier", "init_args": {"model": "mlp", "model_args": NET, "lr": 0.05, "momentum": 0.9}},
        "data": {"class_path": "lightning_fwd.data.DriftDataModule", "init_args": {"dataset": "digits", "flatten": True, "batch_size": 32}},
        "trainer": {"max_epochs": 1, "strategy": {"class_path": "lightning_fwd.ForwardOnlyStrategy", "init_args": {
            "method": {"class_path": "lightning_fwd.Pepita", "init_args": {"seed": 3}}}}},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


# ---- recipes of ours


def _yaml(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
        return folder / name

    return make


def _scenario(path: Path) -> Scenario:
    scenario = load_scenario(path)
    scenario.check()
    return scenario


def _search(path: Path) -> Any:
    spec = load_search(path)
    Space.of(build(spec.model, **spec.model_args), torch.zeros(2, 64), spec.fractions)
    return spec


def _adaptation(path: Path) -> Any:
    recipe = load_adaptation(path)
    recipe.built_stages()
    for view in ("source", "target"):
        recipe.data_module(view).prepare_data()
    build(recipe.model, **recipe.model_args)
    return recipe


def _scheme(folder: Path) -> Path:
    write_scheme(folder / "scheme.yaml", {"fc1": [0, 5, 9, 33], "classifier": 0.5}, ["classifier"], {"budget": "64 KB RAM"})
    return folder / "scheme.yaml"


def _device(folder: Path) -> Path:
    (folder / "own.yaml").write_bytes((Path(lf.__file__).parent / "cost" / "devices" / "stm32g474re.yaml").read_bytes())
    return folder / "own.yaml"


def _priced(path: Path) -> Any:
    device = load_device(path)
    return device, device.latency_s({"forward": 1000}, "int8") if "int8" in device.cycles_per_mac else None


# ---- a folder that is resumed


def _folder(folder: Path) -> Scenario:
    (folder / "recipe.yml").write_text(yaml.safe_dump(SCENARIO))
    scenario, out = load_scenario(folder / "recipe.yml"), folder / "out"
    results = [Result(row.name, seed, 97.5, 61.25, 80.125 + seed, 1234, 5678, 910, 0.0012, 30, 95.5, 4321, 0.25) for row in scenario.rows
               for seed in scenario.seeds]  # fmt: skip
    open_folder(scenario, out)
    save(scenario, results, out)
    return scenario


def _in_folder(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        _folder(folder)
        return folder / "out" / name

    return make


def _opened(path: Path) -> list[str]:
    """The results that are taken over; the folder's recipe is written anew, as a run would."""
    return [repr(result) for result in open_folder(load_scenario(path.parents[1] / "recipe.yml"), path.parent)]


def _measurements(folder: Path) -> Path:
    lines = [measurement((a, b, 0), drift, 50.0 + a + b) for a in range(3) for b in range(3) for drift in ("noise=0.1", "blur=3")]
    (folder / "contributions.csv").write_text("".join(lines))
    return folder / "contributions.csv"


def _measured(path: Path) -> list[str]:
    space = Space((("fc1",), ("classifier",)), (0.25, 0.5, 1.0))
    return list(map(repr, read_measurements(path, space, ["noise=0.1", "blur=3"]).items()))


def _samples(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8), "u1"), np.arange(60, dtype="i4") % 3
    np.savez_compressed(folder / "own.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:], classes=np.array(["a", "b", "c"]))
    return folder / "own.npz"


def _dataset(path: Path) -> Any:
    found = load_dataset(str(path))
    return found.classes, *(getattr(found, key).tobytes() for key in ("x_train", "y_train", "x_test", "y_test"))


def _program(folder: Path) -> Path:
    from lightning_fwd_export import export

    net = lf.rewrite(MLP(8, (4,), 3).eval(), "backprop", torch.rand(2, 8))
    export(net, (torch.rand(2, 8), torch.zeros(2, dtype=torch.int64)), folder / "exported", steps=2)
    return folder / "exported" / "step.pte"


def _translated(path: Path) -> Any:
    from lightning_fwd_export.generate_c import pte_to_c

    return sorted(pte_to_c(path, path.parent / "c").methods)


# ---- what a device gave back


def _learned(folder: Path) -> None:
    """A table as an export of an MLP would write it."""
    net = MLP(**NET)
    tensors = tuple(Stored(name, name, "float32", tuple(p.shape)) for name, p in net.named_parameters())
    state_bytes = 8 + sum(t.nbytes for t in tensors)
    write_table(Table("Backprop()", "MLP", 0xC0FFEE42, state_bytes, True, tensors, (), digest_of(net, ())), folder)


def _weights_table(folder: Path) -> Path:
    _learned(folder)
    return folder / TABLE


def _slots(folder: Path) -> Path:
    """A dump of two slots of ``lfwd_store.h`` with the same weights: whichever is whole gives them."""
    _learned(folder)
    torch.manual_seed(1)
    table, dump = read_table(folder), b""
    state = b"".join(p.detach().numpy().tobytes() for p in MLP(**NET).parameters()) + bytes(8)
    for number in (3, 4):
        head = struct.pack("<4s5I", b"LFWD", 1, table.model_hash, number, table.state_bytes, table.weights_bytes)
        dump += head + state + zlib.crc32(head + state).to_bytes(4, "little") + b"\xff" * 8
    (folder / "flash.bin").write_bytes(dump)
    return folder / "flash.bin"


def _back(path: Path) -> str:
    """What came into a network, of a table with weights of zero."""
    net, weights = MLP(**NET), path.parent / "flash.bin"
    if path.name == TABLE:
        weights.write_bytes(bytes(read_table(path).weights_bytes))
    lf.load_device_weights(net, weights)
    return _digest(net.state_dict().items())


ADAPTATION = {"data": DATA, "model": "mlp", "model_args": NET, "labelled": 60, "device": "stm32h735",
              "stages": ["statistics", {"method": "sparse_update", "settings": {"train": "head"}, "lr": [0.01, 0.1],
              "epochs": 3}]}  # fmt: skip
SEARCH = {"data": {"dataset": "digits", "flatten": True}, "model": "mlp", "model_args": NET, "drifts": ["noise=0.1"],
          "budget": {"ram": "64KB"}, "lr": 0.01, "fractions": [0.5, 1.0], "samples": 50, "pretrain": {"epochs": 2}}  # fmt: skip

KINDS = {kind.name: kind for kind in (
    Kind("checkpoint", _checkpoint, _resume, (resaved(change_values),), sealed=True),
    Kind("state_dict", _save("w.pt"), _weights, (resaved(change_values),), sealed=True),
    Kind("legacy_pt", _save("w.pt", _use_new_zipfile_serialization=False), _weights, (resaved(change_values, old_format=True),)),
    Kind("safetensors", _safetensors, _weights, (header,)),
    Kind("keras_npz", _keras_npz, _weights, (arrays,), sealed=True),
    Kind("keras_h5", _keras_h5, _weights),
    Kind("pretrained", _pretrained, lambda path: _digest(pretrained(Scenario(DATA, "mlp", NET), path).state_dict().items()), (header,),
    sealed=True),
    Kind("moments", _moments, _read_moments, (header,), sealed=True),
    Kind("data_npz", _samples, _dataset, (arrays,), sealed=True),
    Kind("recipe", _recipe, lambda path: _fit("-c", str(path), "--trainer.fast_dev_run=1"), (edited_text,) * 3),
    Kind("scenario", _yaml("compare.yaml", SCENARIO), _scenario, (edited_text,) * 3),
    Kind("search", _yaml("search.yaml", SEARCH), _search, (edited_text,) * 3),
    Kind("adaptation", _yaml("adapt.yaml", ADAPTATION), _adaptation, (edited_text,) * 3),
    Kind("scheme", _scheme, lambda path: (read_scheme(path)[:1], repr(lf.rewrite(
        MLP(**NET).eval(), lf.SparseUpdate(train=str(path)), torch.rand(2, 64)).plan)), (edited_text,) * 3),
    Kind("device", _device, _priced, (edited_text,) * 3),
    Kind("folder_recipe", _in_folder("scenario.yaml"), _opened, (edited_text,), sealed=True, rows=True),
    Kind("results", _in_folder("results.csv"), _opened, (edited_text,) * 2, sealed=True, rows=True),
    Kind("details", _in_folder("details.csv"), _opened, (edited_text,) * 2, sealed=True, rows=True),
    Kind("measurements", _measurements, _measured, (edited_text,), sealed=True, rows=True),
    Kind("weights_table", _weights_table, _back, (header,), sealed=True),
    Kind("slots", _slots, _back, sealed=True),
    Kind("program", _program, _translated, sealed=True),
)}  # fmt: skip
