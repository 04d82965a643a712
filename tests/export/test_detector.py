"""A detector of anomalies as a library: scores, adaptation and threshold of the device are those of the host."""

import copy
import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from library_on_host import HostLibrary
from lightning_fwd_export import export_library
from lightning_fwd_export.boards import board
from lightning_fwd_export.library.detect_on_board import detect_on_board
from normal_windows import detector, windows

import lightning_fwd as lf
from lightning_fwd.adaptation.anomaly import NormalScores, anomaly_scores, recording_scores

FIRMWARE = lf.Firmware(samples=40, anomalies=0.05)
STAGES = [
    lf.Stage("statistics", {"norms": ["map"]}, batch_size=13, name="map"),
    lf.Stage("sparse_update", {"train": "biases"}, lr=0.05, epochs=3, batch_size=4, momentum=0.0, name="biases"),
]
HOME = windows(120).reshape(30, 4, -1)


class Normal(ctypes.Structure):
    _fields_ = [("mean", ctypes.c_float), ("squares", ctypes.c_float), ("count", ctypes.c_uint32), ("threshold", ctypes.c_float)]


class Recording(ctypes.Structure):
    _fields_ = [("score", ctypes.c_float), ("windows", ctypes.c_uint32)]


@pytest.fixture(scope="module")
def net():
    return detector()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    out = tmp_path_factory.mktemp("detector")
    return export_library(net, STAGES, HOME[0], out, firmware=FIRMWARE, seed=2, steps=2, source=HOME)


@pytest.fixture(scope="module")
def library(exported, tmp_path_factory):
    library = HostLibrary(Path(exported.code), tmp_path_factory.mktemp("host"))
    library.c.lfwd_anomaly_score.restype = library.c.lfwd_recording_add.restype = ctypes.c_float
    return library


def scores_of(library, x):
    values = [np.ascontiguousarray(each.numpy()) for each in x]
    return [library.c.lfwd_anomaly_score(ctypes.c_void_p(each.ctypes.data)) for each in values]


def test_the_device_adapts_and_scores_as_the_host_does(net, library):
    there = windows(60, seed=2, drift=True)
    library.begin()
    np.testing.assert_allclose(scores_of(library, there[40:]), anomaly_scores(net, there[40:]), rtol=1e-4)
    for x in there[:40]:
        assert library.add(x, 0) >= 0
    assert library.add(there[0], 1) == -1  # there is one class
    done, reports = lf.adapt(net, STAGES, there[:40], firmware=FIRMWARE, seed=2), library.adapt()
    for report, stage in zip(reports, done.stages, strict=True):
        assert (report.kept, report.judged_on, report.epochs) == (stage.kept, stage.judged_on, stage.epochs)
        assert (report.before, report.after) == (pytest.approx(stage.before, rel=1e-4), pytest.approx(stage.after, rel=1e-4))
    assert reports[0].kept
    np.testing.assert_allclose(scores_of(library, there[40:]), anomaly_scores(done.network, there[40:]), rtol=1e-3)


def test_the_device_s_threshold_is_the_host_s(net, exported, library):
    scores, normal = anomaly_scores(net, windows(20, seed=3)), Normal(threshold=7.0)
    library.c.lfwd_normal_calibrate.argtypes = [ctypes.c_void_p, ctypes.c_float]
    place = ctypes.addressof(normal)
    for number, score in enumerate([*scores.tolist(), 0.0, -1.0, float("nan"), float("inf")]):
        assert library.c.lfwd_normal_calibrate(place, 0.05) == (0 if number >= 8 else -1)
        assert number >= 8 or normal.threshold == 7.0
        assert library.c.lfwd_normal_add(ctypes.c_void_p(place), ctypes.c_float(score)) == min(number + 1, 20)
    for share in (0.01, 0.05, 0.1):
        assert library.c.lfwd_normal_calibrate(place, share) == 0
        assert normal.threshold == pytest.approx(NormalScores.of(scores).threshold(share), rel=1e-5)
    assert [library.c.lfwd_normal_calibrate(place, share) for share in (0.0, 0.6, float("nan"))] == [-1, -1, -1]
    library.c.lfwd_normal_clear(ctypes.c_void_p(place))
    assert normal.count == 0 and library.c.lfwd_normal_calibrate(place, 0.05) == -1
    home = float((Path(exported.code) / "lfwd_anomaly_tables.h").read_text().partition("THRESHOLD ")[2].split("f")[0])
    assert home == pytest.approx(NormalScores.of(recording_scores(net, HOME)).threshold(0.05), rel=1e-6)
    recording, parts = Recording(), scores[:7].tolist()
    for score in parts:
        last = library.c.lfwd_recording_add(ctypes.byref(recording), ctypes.c_float(score))
    assert last == pytest.approx(sum(parts) / 7, rel=1e-5) and recording.windows == 7


class Flash(ctypes.Structure):
    """Two slots in memory."""

    _call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
    _fields_ = [("read", _call), ("write", _call), ("context", ctypes.c_void_p)]

    def __init__(self):
        self.slots = [bytearray(1 << 14), bytearray(1 << 14)]
        super().__init__(self._call(self._read), self._call(self._write), None)

    def _read(self, _, slot, at, place, count):
        ctypes.memmove(place, bytes(self.slots[slot][at : at + count]), count)
        return 0

    def _write(self, _, slot, at, place, count):
        self.slots[slot][at : at + count] = ctypes.string_at(place, count)
        return 0


def test_the_threshold_is_kept_with_the_weights(net, exported, library):
    library.begin()
    normal, flash, got = Normal.in_dll(library.c, "lfwd_normal_kept"), Flash(), copy.deepcopy(net)
    home = normal.threshold
    normal.threshold, normal.count = 7.5, 9
    kept = library.weights
    assert library.c.lfwd_save(ctypes.byref(flash)) == 0
    library.c.lfwd_init()
    assert normal.threshold == home and normal.count == 0
    assert library.c.lfwd_load(ctypes.byref(flash)) == 0
    assert (normal.threshold, normal.count) == (7.5, 9) and library.weights == kept
    lf.load_device_weights(got, bytes(flash.slots[0] + flash.slots[1]), Path(exported.program).parent)


def test_what_was_learned_comes_back_into_the_plain_network(net, exported, library):
    library.begin()
    there, got = windows(40, seed=2, drift=True), copy.deepcopy(net)
    for x in there:
        library.add(x, 0)
    library.adapt()
    lf.load_device_weights(got, library.weights, Path(exported.program).parent)
    np.testing.assert_allclose(scores_of(library, there), anomaly_scores(got, there), rtol=1e-4)


@pytest.mark.board
def test_an_emulated_board_finds_the_threshold_of_the_host(net, exported, emulator):
    there = windows(40 + 80, seed=4, drift=True)
    heard, test = there[40:80].reshape(10, 4, -1), there[80:].reshape(10, 4, -1)
    ran = detect_on_board(Path(exported.code), board("mps2-an386"), there[:40], heard, test)
    done = lf.adapt(net, STAGES, there[:40], firmware=FIRMWARE, seed=2)
    assert [stage.kept for stage in ran.stages] == [stage.kept for stage in done.stages]
    torch.testing.assert_close(ran.scores, recording_scores(done.network, test), rtol=1e-3, atol=0)
    assert ran.threshold == pytest.approx(NormalScores.of(recording_scores(done.network, heard)).threshold(0.05), rel=1e-3)
    assert ran.ram == pytest.approx(sum(exported.ram_bytes.values()), abs=200)


def test_without_normal_samples_there_is_no_threshold(net, tmp_path):
    with pytest.raises(lf.LightningFwdError, match="anomalies without inputs of the source"):
        export_library(net, STAGES, HOME[0], tmp_path / "out", firmware=FIRMWARE)
    with pytest.raises(lf.LightningFwdError, match="has no classes to learn from"):
        export_library(net, STAGES, HOME[0], tmp_path / "out", source=HOME)
    assert not (tmp_path / "out").exists()
