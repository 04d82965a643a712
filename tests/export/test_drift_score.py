"""Drift is noticed on the device as on the host, and seldom without drift."""

import ctypes

import numpy as np
import pytest
import torch
from library_on_host import HostLibrary
from lightning_fwd_export import export_library
from torch import nn

import lightning_fwd as lf
from lightning_fwd.adaptation.drift_score import DriftScore, features_of
from lightning_fwd.models import SmallConv

FIRMWARE = lf.Firmware(samples=20, false_alarms=0.05)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallConv(1, (8, 8), 3).eval()


def inputs(count, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_drift_is_found_and_its_absence_too(net):
    score = DriftScore.calibrated(features_of(net, inputs(600)), false_alarms=0.05, seed=1)
    streams = features_of(net, inputs(200 * 100, seed=2)).reshape(100, 200, -1).numpy()
    false = np.mean([score.first_alarm(stream) is not None for stream in streams])
    assert false <= 0.15
    for drifted in (0.5 * inputs(200, seed=3), inputs(200, seed=4) + 0.7):
        assert score.first_alarm(features_of(net, drifted).numpy()) <= 60


def test_the_device_s_score_is_the_host_s(net, tmp_path):
    known, drifted = inputs(400), 0.6 * inputs(60, seed=5) + 0.2
    report = export_library(net, ["statistics"], known[:1], tmp_path / "out", firmware=FIRMWARE, source=known, steps=1)
    library = HostLibrary(tmp_path / "out" / "c", tmp_path)
    library.c.lfwd_drift_add.restype = ctypes.c_float
    score = FIRMWARE.drift_score(net, known)
    wanted, size = score.run(features_of(net, drifted).numpy()), len(score.mean)
    logits, features = (ctypes.c_float * 3)(), (ctypes.c_float * size)()
    for x, expected in zip(drifted, wanted, strict=True):
        values = np.ascontiguousarray(x.numpy())
        library.c.lfwd_watch(ctypes.c_void_p(values.ctypes.data), logits, features)
        assert library.c.lfwd_drift_add(features) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    library.c.lfwd_drift_clear()
    broken = (ctypes.c_float * size)(*[float("nan")] * size)
    assert np.isfinite(library.c.lfwd_drift_add(broken))
    text = (tmp_path / "out" / "c" / "lfwd_drift_tables.h").read_text()
    assert f"#define LFWD_FEATURES {size}" in text and report.ram_bytes["drift"] == 4 * size


def test_what_cannot_be_watched_is_refused(net, tmp_path):
    with pytest.raises(lf.LightningFwdError, match="false_alarms without inputs of the source"):
        export_library(net, ["statistics"], inputs(1), tmp_path / "a", firmware=FIRMWARE)
    with pytest.raises(lf.LightningFwdError, match="10 samples of the source"):
        DriftScore.calibrated(features_of(net, inputs(10)))
    with pytest.raises(lf.LightningFwdError, match="no linear layer"):
        features_of(nn.Conv2d(1, 2, 3), inputs(2))
    assert not (tmp_path / "a").exists()
