"""Drift in time, and label shift."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lightning_fwd.data import Drift, DriftDataModule, DriftStream
from lightning_fwd.data.subsets import subset_with_shares


def noisy(**arguments) -> DriftDataModule:
    return DriftDataModule("digits", drift="noise", **arguments)


def test_each_batch_is_the_source_at_its_level():
    data = noisy(drift_seed=3)
    stream = DriftStream(data, levels=(0, 5, 0), samples_per_level=20, batch_size=8)
    clean, labels = data.tensors("test", "source")
    assert len(stream) == 9 and stream.levels == [0] * 3 + [5] * 3 + [0] * 3
    for (x, y), level, stored in zip(stream, stream.levels, stream._batches, strict=True):
        expected = clean[stored] if level == 0 else Drift("noise", seed=3, level=level)(clean[stored], torch.from_numpy(stored) + 1438)
        assert torch.equal(x, expected) and torch.equal(y, labels[stored])


def test_a_sample_comes_once_and_the_order_is_the_seeds():
    seen = [np.concatenate(DriftStream(noisy(), samples_per_level=30, seed=s)._batches) for s in (0, 0, 1)]
    assert len(set(seen[0])) == 330 == len(seen[0])
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])


def test_it_is_a_data_set_of_batches_for_a_loader():
    stream = DriftStream(noisy(val_fraction=0.2), levels=(1,), samples_per_level=10, batch_size=4, split="val")
    assert [len(x) for x, _ in DataLoader(stream, batch_size=None)] == [4, 4, 2]


def test_a_chain_goes_to_the_level_as_one():
    stream = DriftStream(DriftDataModule("digits", drift="contrast=0.9+noise=0.5"), levels=(2,), samples_per_level=4)
    x, _ = next(iter(stream))
    data, index = DriftDataModule("digits", drift="contrast=0.5+noise=0.06", view="target"), stream._batches[0]
    torch.testing.assert_close(x, data.tensors("test")[0][index])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"levels": (0, 6)}, "whole numbers from 0 to 5"),
        ({"levels": ()}, "at least one"),
        ({"samples_per_level": 0}, "at least 1"),
        ({"samples_per_level": 100}, "11 levels of 100 samples are 1100, the test split has 359"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        DriftStream(noisy(), **arguments)


def test_a_stream_needs_a_simulated_drift():
    with pytest.raises(ValueError, match="a stream needs a simulated drift, got 'none'"):
        DriftStream(DriftDataModule("digits"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dataset": "har", "drift": "subject+noise=0.5"}, "the real drift 'subject', which has no levels"),
        ({"drift": "noise", "target_dataset": "mnist"}, "target_dataset 'mnist'"),
        ({"drift": "noise", "class_shares": [1] * 10}, "class_shares"),
    ],
)
def test_a_target_that_is_more_than_the_drift_is_refused(arguments, said):
    """The stream showed the source's samples, and of a real drift the source's people, without a word."""
    with pytest.raises(ValueError, match=f"(?s)begins at level 0, the source.*{said}.*simulated drift alone"):
        DriftStream(DriftDataModule(**arguments))


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), st.integers(0, 40), st.integers(0, 9))
def test_shares_are_met_to_one_sample(shares, count, seed):
    labels = np.repeat(np.arange(3), 40)
    drawn = subset_with_shares(labels, count, shares, seed)
    assert len(drawn) == count == len(set(drawn))
    found = np.bincount(labels[drawn], minlength=3)
    assert np.all(np.abs(found - count * np.array(shares) / sum(shares)) < 1)


def test_without_a_count_as_many_as_the_shares_allow():
    assert np.bincount(np.repeat([0, 1], [10, 40])[subset_with_shares(np.repeat([0, 1], [10, 40]), None, (1, 3), 0)]).tolist() == [10, 30]


def test_label_shift_is_the_targets_alone():
    shares = [9, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    data = DriftDataModule("digits", class_shares=shares, train_samples=54, test_samples=54)
    shifted = data.changed(view="target")
    for split in ("train", "test"):
        assert torch.bincount(shifted.tensors(split)[1]).tolist() == [27] + [3] * 9
        assert torch.bincount(data.tensors(split)[1]).min() >= 4
    assert shifted.title.endswith("label shift")


@pytest.mark.parametrize("shares", [[1, 2], [1] * 9 + [-1], [0] * 10, [float("nan")] * 10, "0123456789", [True] * 10, 3])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="class_shares"):
        DriftDataModule("digits", class_shares=shares, view="target", drift="noise").prepare_data()


def test_more_than_there_are_of_a_class_are_refused():
    with pytest.raises(ValueError, match="ask for 100 samples of class 3 in 100, there are"):
        DriftDataModule("digits", class_shares=[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], test_samples=100, view="target").prepare_data()
