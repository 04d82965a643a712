"""The reference networks against the official weights, an independent implementation's outputs and published counts."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.fx import symbolic_trace

from lightning_fwd.models import MODELS

# name: (file of the official weights, published parameters, moving averages included)
OFFICIAL = {
    "resnet8": ("resnet8", 78_666),
    "ds_cnn": ("ds_cnn_kws", 24_908),
    "mobilenet_v1_025": ("mobilenet_v1_025_vww", 221_794),
    "fc_autoencoder": ("autoencoder_ad", 269_992),
    "streaming_wake_word": ("sww_streaming", 47_707),
}


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("LIGHTNING_FWD_DATA")
    if not folder:
        pytest.skip("LIGHTNING_FWD_DATA is not set: no official weights")
    return Path(folder)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_weights_give_the_golden_outputs(name: str, data: Path):
    file, _ = OFFICIAL[name]
    model = MODELS[name](weights=data / "mlperf_tiny" / f"{file}.npz").eval()
    with np.load(data / "mlperf_tiny" / "golden.npz", allow_pickle=False) as golden:
        x, expected = torch.from_numpy(golden[f"{file}/input"]), torch.from_numpy(golden[f"{file}/output"])
    x = x.movedim(-1, 1)  # NHWC to NCHW; nothing to move for the autoencoder's (B, 640)
    assert x.shape[1:] == model.input_shape
    with torch.no_grad():
        found = model(x) if model.num_classes is None else model.predict_proba(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    if model.num_classes is not None:
        # some outputs are saturated (0.9999 and more): the small probabilities tell the networks apart, so compare logarithms
        log_found = model(x).detach().log_softmax(1)
        assert expected.min() > 0
        torch.testing.assert_close(log_found, expected.log(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameter_counts_as_published(name: str):
    state = MODELS[name]().state_dict()
    assert sum(t.numel() for key, t in state.items() if not key.endswith("num_batches_tracked")) == OFFICIAL[name][1]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_traces_and_has_one_relu_per_use(name: str):
    model = MODELS[name]().eval()
    traced = symbolic_trace(model)
    x = torch.randn(2, *model.input_shape)
    assert torch.equal(traced(x), model(x))
    assert model(x).shape == (2, model.num_classes or model.input_shape[0])
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].num_classes is not None])
def test_num_classes_sets_the_last_layer(name: str):
    model = MODELS[name](num_classes=7).eval()
    assert model.num_classes == 7
    assert model(torch.randn(1, *model.input_shape)).shape == (1, 7)


def test_predict_proba_is_a_distribution():
    proba = MODELS["resnet8"]().eval().predict_proba(torch.rand(3, 3, 32, 32) * 255)
    torch.testing.assert_close(proba.sum(1), torch.ones(3))


def test_anomaly_score_is_the_mean_squared_reconstruction_error():
    model, x = MODELS["fc_autoencoder"]().eval(), torch.randn(4, 640)
    torch.testing.assert_close(model.anomaly_score(x), ((model(x) - x) ** 2).mean(1))


@pytest.mark.slow
def test_resnet8_accuracy_on_ten_thousand_cifar10_jpeg_images(data: Path):
    file = data / "cifar10_jpeg.npz"
    if not file.exists():
        pytest.skip(f"{file} is missing")
    with np.load(file, allow_pickle=False) as archive:
        jpeg, lengths, labels = archive["jpeg_test"], archive["len_test"], archive["y_test"]
    ends = lengths.astype(int).cumsum()
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[end - n : end]))) for n, end in zip(lengths, ends, strict=True)]
    images = torch.from_numpy(np.stack(pixels)).movedim(-1, 1)
    model = MODELS["resnet8"](weights=data / "mlperf_tiny" / "resnet8.npz").eval()
    with torch.no_grad():
        predicted = torch.cat([model(batch.float()).argmax(1) for batch in images.split(500)])
    accuracy = (predicted == torch.from_numpy(labels)).float().mean().item()
    assert accuracy == pytest.approx(0.755, abs=0.003)
