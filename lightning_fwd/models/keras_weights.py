"""Load Keras weights (.npz or .h5) into a PyTorch network whose layers were created in the Keras order."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_Slot = tuple[Tensor, tuple[int, ...]]  # a tensor of the network, and the axes that permute it into the Keras layout


class _Stored(NamedTuple):
    """One array of a weights file: its shape and type are known before its data are read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def load_keras_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Copy the weights of a Keras network into `model`, transposed to PyTorch's layouts.

    Layers are paired by kind and order of creation, under the names that Keras gives them (`conv2d`, `conv2d_1`,
    `depthwise_conv2d`, `batch_normalization`, `dense`, ...). Keras stores Conv2D HWIO, DepthwiseConv2D HWCM, Dense
    [in, out]. `.npz` holds keys `layer/weight` and is read without pickle; `.h5` is a Keras 2 file and needs h5py.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unreadable, a key is missing or unknown, a shape or type differs (every such key is named), or
            the network has layers of another kind; `model` is left as it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path.absolute()}")
    wanted = {f"{layer}/{name}": target for layer, module in _keras_names(model) for name, target in _slots(module)}
    try:
        with ExitStack() as stack:
            stored = _open_h5(path, stack) if path.suffix in (".h5", ".hdf5") else _open_npz(path, stack)
            problems = list(_mismatches(wanted, stored))
            arrays = {} if problems else {key: stored[key].read() for key in wanted}
    except ModuleNotFoundError:
        raise
    except (
        Exception
    ) as error:  # what numpy, zipfile and h5py raise on files that are damaged, hold pickled objects or are something else altogether
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"{path} is no readable weights file (.npz of plain arrays, or Keras .h5): {said}") from error
    if not problems:
        problems = [f"{key} holds values that are not finite" for key, array in arrays.items() if not np.isfinite(array).all()]
        problems += [
            f"{key} is below 0, as no variance is" for key, a in arrays.items() if key.endswith("/moving_variance") and (a < 0).any()
        ]
    if problems:
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}. "
            "Give the weights file of this network, and build it with the same num_classes."
        )
    with torch.no_grad():
        for key, (tensor, axes) in wanted.items():
            tensor.permute(axes).copy_(torch.from_numpy(arrays[key]))


def _mismatches(wanted: dict[str, _Slot], stored: dict[str, _Stored]) -> Iterator[str]:
    yield from (f"missing {key}" for key in wanted if key not in stored)
    yield from (f"unknown {key}" for key in stored if key not in wanted)
    for key in (key for key in wanted if key in stored):
        (tensor, axes), found = wanted[key], stored[key]
        expected = tuple(tensor.permute(axes).shape)
        if found.shape != expected:
            yield f"{key} has shape {found.shape}, expected {expected}"
        elif found.dtype.kind != "f":
            yield f"{key} holds {found.dtype}, expected floating point"


def _keras_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer with weights, under the name Keras gives it: its kind, numbered from the second on."""
    seen: Counter[str] = Counter()
    for path, module in model.named_modules():
        match module:
            case nn.Conv2d():
                kind = "depthwise_conv2d" if module.groups > 1 else "conv2d"
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                kind = "batch_normalization"
            case nn.Linear():
                kind = "dense"
            case _ if any(True for _ in module.parameters(recurse=False)):  # it would stay as drawn
                raise ValueError(
                    f"{path or 'the model'} is a {type(module).__name__}: weights of Keras are read for Conv2d, Linear and batch norm "
                    "alone. "
                    "Give a checkpoint, a state_dict or a .safetensors file."
                )
            case _:
                continue
        yield (f"{kind}_{seen[kind]}" if seen[kind] else kind), module
        seen[kind] += 1


def _slots(module: nn.Module) -> Iterator[tuple[str, _Slot]]:
    """Keras weight name and slot of every tensor of one layer."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        yield from ((name, (getattr(module, attribute), (0,))) for name, attribute in _BATCH_NORM.items())
        return
    if isinstance(module, nn.Linear):
        yield "kernel", (module.weight, (1, 0))
    elif module.groups > 1:  # (C, 1, H, W) to HWCM
        yield "depthwise_kernel", (module.weight, (2, 3, 0, 1))
    else:  # OIHW to HWIO
        yield "kernel", (module.weight, (2, 3, 1, 0))
    if module.bias is not None:
        yield "bias", (module.bias, (0,))


def _open_npz(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    archive = stack.enter_context(np.load(path, allow_pickle=False))
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("a single array, no archive of them")
    return {key: _npz_member(archive, key) for key in archive.files}


def _npz_member(archive: np.lib.npyio.NpzFile, key: str) -> _Stored:
    with archive.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    return _Stored(shape, dtype, lambda: archive[key])


def _open_h5(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path} needs h5py: pip install lightning_fwd[keras]") from error
    file = stack.enter_context(h5py.File(path, "r"))
    stored: dict[str, _Stored] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):  # conv2d/conv2d/kernel:0
            *_, layer, weight = name.split("/")
            stored[f"{layer}/{weight.removesuffix(':0')}"] = _Stored(item.shape, item.dtype, item.__array__)

    file.get("model_weights", file).visititems(visit)
    return stored
