"""Recordings: the front end against the benchmark's own features, and what drift does to sound."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_fwd.data import AUDIO_DRIFTS, Drift, DriftDataModule, as_drift, load_dataset
from lightning_fwd.data.audio import BANDS, HOP, SAMPLE_RATE, STEP, ZERO, mfcc, mfcc_shape
from lightning_fwd.data.drift import KINDS

DATA = os.environ.get("LIGHTNING_FWD_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="LIGHTNING_FWD_DATA is not set")
LEVEL_3 = [Drift(kind) for kind in AUDIO_DRIFTS]


def recordings(count=4, samples=16000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, samples, generator=generator).cumsum(1).sub_(0) * 1e-3


@needs_data
def test_the_front_end_gives_the_benchmark_s_own_features():
    with np.load(Path(DATA) / "speech_commands_mlperf.npz") as raw, np.load(Path(DATA) / "speech_commands_mlperf_mfcc.npz") as known:
        ours = (mfcc(torch.from_numpy(raw["audio"][:200])) / STEP + ZERO).round()[:, 0].numpy()
        off = np.abs(ours - known["mfcc"][:200])
    assert (off > 1).mean() < 1e-4  # those at the ends of int8, where the benchmark's wrap around


def test_the_front_end_does_not_know_the_scale_and_bears_silence():
    x = recordings()
    assert mfcc(x).shape == (4, *mfcc_shape(16000)) == (4, 1, 49, 10)
    assert torch.equal(mfcc(x * 512), mfcc(x))  # a power of two: not even the rounding changes
    silent = mfcc(torch.zeros(1, 16000))
    assert torch.isfinite(silent).all() and silent[0, 0, :, 1:].abs().max() < STEP  # all bands alike
    assert float(silent[0, 0, 0, 0]) == pytest.approx(
        max(-128 - ZERO, BANDS * math.log(1e-6) * 2 / math.sqrt(2 * BANDS) / STEP) * STEP, abs=STEP
    )


@pytest.mark.parametrize("drift", LEVEL_3, ids=str)
def test_a_recording_drifts_alike_in_any_batch_and_not_at_all_at_the_identity(drift):
    x, others, index = recordings(), recordings(5, seed=1), torch.tensor([7, 2, 900, 3])
    before = x.clone()
    whole = drift(x, index, others=others)
    assert whole.shape == x.shape and torch.isfinite(whole).all() and not torch.equal(whole, x) and torch.equal(x, before)
    torch.testing.assert_close(drift(x[[2, 0]], index[[2, 0]], others=others), whole[[2, 0]], rtol=1e-5, atol=1e-6)
    assert torch.equal(Drift(drift.kind, KINDS[drift.kind].identity)(x), x)


@pytest.mark.parametrize("kind", AUDIO_DRIFTS)
def test_more_severe_levels_take_the_recording_farther(kind):
    x, others = recordings(), recordings(5, seed=1)
    alike = lambda a, b: float(torch.nn.functional.cosine_similarity(a, b).mean())  # noqa: E731
    gone = [1 - alike(Drift(kind, level=level)(x, others=others), x) for level in range(1, 6)]
    assert gone == sorted(gone) and gone[0] > 0


def test_severities_mean_what_they_say():
    x = recordings()
    loud = x.square().mean(1).sqrt()
    for kind in ("white_noise", "babble"):
        added = Drift(kind, 0.5)(x, others=recordings(5, seed=1)) - x
        torch.testing.assert_close(added.square().mean(1).sqrt() / loud, torch.full((4,), 0.5), rtol=0.05, atol=0)
    clipped = Drift("clipping", 0.25)(x)
    torch.testing.assert_close(clipped.abs().amax(1), x.abs().amax(1) * 0.25)
    click = torch.zeros(1, 100)
    click[0, 10] = 1.0
    dull = Drift("dull_microphone", 5.0)(click)[0]
    torch.testing.assert_close(dull[11:20] / dull[10:19], torch.full((9,), math.exp(-1 / 5)), rtol=1e-3, atol=0)
    assert dull[:10].abs().max() < 1e-6 and float(dull.sum()) == pytest.approx(1, abs=1e-3)
    tone = torch.sin(2 * math.pi * 440 * torch.arange(16000) / SAMPLE_RATE)[None]
    slow = torch.fft.rfft(Drift("rate", 0.8)(tone)[0]).abs().argmax()
    assert float(slow) == pytest.approx(440 * 0.8, abs=1)


def test_what_is_not_a_recording_is_refused_and_so_is_a_recording_elsewhere():
    with pytest.raises(ValueError, match="expected recordings"):
        Drift("babble")(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="expected images .*: white_noise"):
        Drift("blur")(recordings())
    with pytest.raises(ValueError, match="needs other recordings"):
        Drift("babble")(recordings())
    with pytest.raises(ValueError, match="is not a number|outside"):
        as_drift("rate=0")


@needs_data
def test_speech_through_the_data_module():
    source = DriftDataModule("speech_commands", drift="rate=0.8+white_noise=0.3", val_fraction=0)
    target = source.changed(view="target", train_samples=60, test_samples=30)
    source.prepare_data()
    target.prepare_data()
    assert source.input_shape == (1, 49, 10) and source.num_classes == 12 and source.class_names[-1].lower() == "unknown"
    x, y = target.tensors("test")
    assert x.shape == (30, 1, 49, 10) and len(y) == 30 and len(target.tensors("train")[0]) == 60
    assert not torch.equal(x, target.tensors("test", "source")[0])
    assert torch.equal(target.changed().tensors("test")[0], x)
    with pytest.raises(ValueError, match="of recordings the MFCC"):
        source.changed(normalize="byte").tensors("test")
    with pytest.raises(ValueError, match="blur=7: got shape .* expected images"):
        source.changed(drift="blur", view="target").prepare_data()


@needs_data
@pytest.mark.parametrize("name", ["speech_commands", "visual_wake_words"])
def test_halves_share_nothing_and_keep_the_classes(name):
    data = load_dataset(name)
    assert len(data.y_train) == len(data.y_test) == 400
    counts = [np.bincount(y, minlength=len(data.classes)) for y in (data.y_train, data.y_test)]
    assert np.abs(counts[0] - counts[1]).max() <= 2
    first = {x.tobytes() for x in data.x_train}
    assert sum(x.tobytes() in first for x in data.x_test) <= 2  # recordings of pure silence may be alike


def test_damaged_files_of_recordings_and_images(tmp_path):
    good = {"audio": np.zeros((4, 16000), np.int16), "y": np.arange(4) % 2, "classes": ["a", "b"]}
    for change, said in (
        ({"audio": np.zeros((4, 100), np.int16)}, "audio is int16"),
        ({"y": np.arange(4)}, "y is"),
        ({"y": np.zeros(3, int)}, "y is"),
    ):
        np.savez(tmp_path / "speech_commands_mlperf.npz", **(good | change))
        with pytest.raises(ValueError, match=said):
            load_dataset("speech_commands", root=tmp_path)
    np.savez(tmp_path / "visual_wake_words_mlperf.npz", x=np.zeros((4, 3, 9, 9), np.uint8), y=np.arange(4) % 2, classes=["a", "b"])
    with pytest.raises(ValueError, match="x is uint8"):
        load_dataset("visual_wake_words", root=tmp_path)
    assert HOP == 320
