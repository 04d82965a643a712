"""Good files with weights in them, and what the library reads from one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import lightning_fwd as lf
from lightning_fwd.models import MLP, SmallConv, load_weights
from lightning_fwd.recipes import store_weights

NET = {"in_features": 64, "hidden": [12]}
DATA = {"dataset": "digits", "drift": "noise=0.1", "flatten": True}


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, value in tensors:
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path, net: Callable[[], torch.nn.Module] = lambda: MLP(**NET)) -> str:
    made = net()
    load_weights(made, path)
    return digest(made.state_dict().items())


def torch_file(name: str, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        torch.save(MLP(**NET).state_dict(), folder / name, **how)
        return folder / name

    return make


def safetensors_file(folder: Path) -> Path:
    torch.manual_seed(0)
    save_file(MLP(**NET).state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors"


def keras_layers() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    net = MLP(**NET)
    found = {}
    for name, layer in (("dense", net.fc1), ("dense_1", net.classifier)):
        found |= {f"{name}/kernel": layer.weight.detach().T.numpy(), f"{name}/bias": layer.bias.detach().numpy()}
    return found


def keras_npz_file(folder: Path) -> Path:
    np.savez(folder / "w.npz", **keras_layers())
    return folder / "w.npz"


def keras_h5_file(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "w.h5", "w") as file:
        for key, value in keras_layers().items():
            layer, weight = key.split("/")
            file[f"model_weights/{layer}/{layer}/{weight}:0"] = value
    return folder / "w.h5"


def pretrained_file(folder: Path) -> Path:
    torch.manual_seed(0)
    store_weights(MLP(**NET), folder / "seed0.safetensors")
    return folder / "seed0.safetensors"


def moments_file(folder: Path) -> Path:
    torch.manual_seed(0)
    lf.source_moments(SmallConv(1, (4, 8)), [torch.rand(64, 1, 8, 8)], folder / "source.safetensors", samples=64)
    return folder / "source.safetensors"


def read_moments(path: Path) -> str:
    torch.manual_seed(0)
    model = lf.rewrite(SmallConv(1, (4, 8)).eval(), lf.Alignment(source=str(path)), torch.rand(4, 1, 8, 8))
    return digest(model.state_dict().items())
