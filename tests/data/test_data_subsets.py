import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fwd.data.subsets import hold_out, stratified_subset

class_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def labels_of(sizes, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@given(sizes=class_sizes, seed=st.integers(0, 10**6), data=st.data())
def test_subset_keeps_the_class_shares(sizes, seed, data):
    labels = labels_of(sizes)
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified_subset(labels, count, seed)
    assert len(chosen) == count == len(set(chosen.tolist()))
    found = np.bincount(labels[chosen], minlength=len(sizes))
    assert (found <= sizes).all()
    if count >= len(sizes):
        assert (found >= 1).all()
    exact = np.array(sizes) * count / len(labels)
    if (exact >= 1).all():  # no class is lifted to its one sample: within one of the exact share
        assert (np.abs(found - exact) < 1).all()


def test_subset_is_seeded():
    labels = labels_of([50, 50, 50])
    assert np.array_equal(stratified_subset(labels, 30, 1), stratified_subset(labels, 30, 1))
    assert set(stratified_subset(labels, 30, 1)) != set(stratified_subset(labels, 30, 2))


def test_subset_draws_each_sample_of_a_class_equally_often():
    labels = labels_of([20, 40])
    times = np.bincount(np.concatenate([stratified_subset(labels, 30, s) for s in range(400)]), minlength=60)
    assert abs(times - 200).max() < 60  # 400 draws with p = 1/2: standard deviation 10


@pytest.mark.parametrize("count", [-1, 7])
def test_subset_refuses_what_is_not_there(count):
    with pytest.raises(ValueError, match=f"cannot draw {count} of 6 samples"):
        stratified_subset(labels_of([3, 3]), count, 0)


@given(sizes=class_sizes, fraction=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_hold_out_parts_are_disjoint_and_complete(sizes, fraction, seed):
    labels = labels_of(sizes)
    kept, held = hold_out(labels, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert bool(len(held)) == bool(fraction)


def test_hold_out_keeps_recordings_whole():
    groups = np.repeat(np.arange(40), 12)
    labels = np.tile(np.repeat([0, 1, 2], 4), 40)
    kept, held = hold_out(labels, 0.2, 3, groups)
    assert not set(groups[kept]) & set(groups[held])
    assert len(held) == pytest.approx(0.2 * len(labels), abs=24)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_refuses_impossible_shares(fraction):
    with pytest.raises(ValueError, match="validation fraction"):
        hold_out(labels_of([3]), fraction, 0)
