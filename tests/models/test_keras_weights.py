"""What the weights loader accepts, and what it says about files that do not fit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_fwd.models import MODELS, FCAutoencoder, ResNet8, load_keras_weights
from lightning_fwd.models.keras_weights import _keras_names, _slots


def keras_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The weights of `model` as a Keras file holds them."""
    return {
        f"{layer}/{name}": tensor.detach().permute(axes).numpy().copy()
        for layer, module in _keras_names(model)
        for name, (tensor, axes) in _slots(module)
    }


@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "mobilenet_v1_025", "fc_autoencoder", "streaming_wake_word"])
def test_npz_round_trip(name: str, tmp_path: Path):
    source, target = MODELS[name](), MODELS[name]()
    np.savez(tmp_path / "w.npz", **keras_arrays(source))
    load_keras_weights(target, tmp_path / "w.npz")
    for key, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[key]), key


def test_layouts_are_those_of_keras():
    shapes = {key: array.shape for key, array in keras_arrays(MODELS["streaming_wake_word"]()).items()}
    assert shapes["depthwise_conv2d/depthwise_kernel"] == (3, 1, 40, 1)
    assert shapes["conv2d/kernel"] == (1, 1, 40, 128)
    assert shapes["dense/kernel"] == (32, 3)
    assert shapes["batch_normalization_3/moving_variance"] == (32,)


def test_h5_as_keras_2_writes_it(tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    source = ResNet8()
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for key, array in keras_arrays(source).items():
            layer, weight = key.split("/")
            file[f"model_weights/{layer}/{layer}/{weight}:0"] = array
        file["optimizer_weights/iter:0"] = np.zeros(1)
    target = ResNet8(weights=tmp_path / "w.h5")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_every_key_that_does_not_fit_is_named_and_nothing_changes(tmp_path: Path):
    model = ResNet8()
    arrays = keras_arrays(model)
    arrays["conv2d_9/kernel"] = arrays.pop("conv2d_8/kernel")
    arrays["dense/bias"] = np.zeros(12, np.float32)
    arrays["conv2d/bias"] = np.zeros(16, np.int64)
    arrays["conv2d_1/bias"] += 1
    np.savez(tmp_path / "w.npz", **arrays)
    before = model.stem.conv.bias.clone(), model.block1.conv1.bias.clone()
    with pytest.raises(ValueError) as error:
        load_keras_weights(model, tmp_path / "w.npz")
    for part in (
        "missing conv2d_8/kernel",
        "unknown conv2d_9/kernel",
        "dense/bias has shape (12,), expected (10,)",
        "conv2d/bias holds int64",
    ):
        assert part in str(error.value)
    assert torch.equal(model.stem.conv.bias, before[0])
    assert torch.equal(model.block1.conv1.bias, before[1])


def test_official_weights_need_the_official_number_of_classes(tmp_path: Path):
    np.savez(tmp_path / "w.npz", **keras_arrays(ResNet8()))
    with pytest.raises(ValueError, match=re.escape("dense/kernel has shape (64, 10), expected (64, 4)")):
        ResNet8(num_classes=4, weights=tmp_path / "w.npz")


def test_pickled_objects_are_refused(tmp_path: Path):
    arrays = {key: array.astype(object) for key, array in keras_arrays(FCAutoencoder()).items()}
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(ValueError, match="holds object, expected floating point"):
        FCAutoencoder(weights=tmp_path / "w.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn", b"\x80\x04N."])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_unreadable_files(content: bytes, suffix: str, tmp_path: Path):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no readable weights file"):
        ResNet8(weights=path)


def test_a_damaged_archive_is_an_error(tmp_path: Path):
    path = tmp_path / "w.npz"
    np.savez(path, **keras_arrays(ResNet8()))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no readable weights file"):
        ResNet8(weights=path)


def test_a_plain_npy_and_a_missing_file(tmp_path: Path):
    np.save(tmp_path / "w.npy", np.zeros(3))
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="no readable weights file"):
        ResNet8(weights=tmp_path / "w.npz")
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        ResNet8(weights=tmp_path / "absent.npz")
