"""Machine sounds: windows as the autoencoder reads them, and drift on log-mel spectrograms that adds powers, not decibels."""

import os

import numpy as np
import pytest
import torch

from lightning_fwd.data.machine_sounds import FILE, SOUND_DRIFTS, MachineSounds, load_machine_sounds

needs_data = pytest.mark.skipif("LIGHTNING_FWD_DATA" not in os.environ, reason="LIGHTNING_FWD_DATA is not set")


def sounds(count=3, frames=30, bands=16):
    x = 10 * torch.randn(count, frames, bands, generator=torch.Generator().manual_seed(0)) - 30
    return MachineSounds(x, torch.arange(count) > 1, torch.ones(count, dtype=torch.long))


def test_a_window_is_five_frames_one_after_the_other():
    some = sounds()
    windows = some.windows()
    assert windows.shape == (3, 26, 80)
    assert torch.equal(windows[1, 7], some.logmel[1, 7:12].flatten())


@pytest.mark.parametrize("kind", SOUND_DRIFTS)
def test_drift_changes_what_is_heard_the_same_way_every_time(kind):
    some = sounds()
    severity = {"floor": 0.0, "reverberation": 5.0}.get(kind, 6.0)
    there = some.drifted(kind, severity)
    assert torch.equal(there.logmel, some.drifted(kind, severity).logmel) and not torch.equal(there.logmel, some.logmel)
    nothing = some.drifted(kind, -100.0 if kind == "floor" else 0.0)
    torch.testing.assert_close(nothing.logmel, some.logmel, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="is outside"):
        some.drifted(kind, 1e4)


def test_powers_add():
    """A floor as loud as a band's median lifts a frame at the median by 3 dB; echoes of one loud frame fall by 10 log10(e) / frames."""
    loud = torch.full((1, 40, 4), -200.0)
    loud[0, 10] = 0.0
    tail = (
        MachineSounds(loud, torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.long))
        .drifted("reverberation", 8.0)
        .logmel[0, 10:30, 0]
    )
    torch.testing.assert_close(tail, -10 / 8 * torch.arange(20) * float(np.log10(np.e)), atol=1e-3, rtol=0)
    flat = MachineSounds(torch.zeros(40, 40, 4), torch.zeros(40, dtype=torch.bool), torch.ones(40, dtype=torch.long))
    assert float(flat.drifted("floor", 0.0).logmel.mean()) == pytest.approx(10 * np.log10(2), abs=0.2)
    with pytest.raises(ValueError, match="unknown drift 'rain'"):
        flat.drifted("rain", 1.0)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=FILE):
        load_machine_sounds(tmp_path)
    good = {"logmel": np.zeros((4, 20, 8), np.float16), "anomaly": np.arange(4) % 2, "machine": np.ones(4, np.int64)}
    for change in (
        {"logmel": np.full((4, 20, 8), np.nan, np.float16)},
        {"logmel": np.zeros((4, 3, 8), np.float16)},
        {"anomaly": np.arange(4)},
    ):
        np.savez(tmp_path / FILE, **(good | change))
        with pytest.raises(ValueError, match="logmel|anomaly"):
            load_machine_sounds(tmp_path)


@needs_data
def test_the_real_clips():
    some = load_machine_sounds()
    assert some.logmel.shape == (199, 200, 128) and some.windows().shape[1:] == (196, 640) and 0 < some.anomalous.float().mean() < 1
