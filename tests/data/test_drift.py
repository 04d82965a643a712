import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fwd.data import DRIFTS, Drift, DriftChain, as_drift
from lightning_fwd.data.drift import drift_as_plain
from lightning_fwd.data.drift_kinds import DRIFT_KINDS, SPIKE
from lightning_fwd.data.sample_random import SampleRandom

SIGNAL_DRIFTS = [name for name, kind in DRIFT_KINDS.items() if kind.signals]


def images(count=6, channels=3, height=16, width=14, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def signals(count=6, channels=6, time=32, seed=0):
    return torch.randn(count, channels, time, generator=torch.Generator().manual_seed(seed))


def severities(kind):
    """Every severity that the kind allows on the small images above."""
    low, high = DRIFT_KINDS[kind].low, DRIFT_KINDS[kind].high
    if DRIFT_KINDS[kind].step == 0:
        return st.floats(low, high, allow_nan=False)
    whole = st.integers(int(max(low, -13)), int(min(high, 13)))
    return whole.filter(lambda n: n % 2 == 1) if DRIFT_KINDS[kind].step == 2 else whole


any_drift = st.sampled_from(DRIFTS).flatmap(lambda kind: st.builds(Drift, st.just(kind), severities(kind), st.integers(0, 2**40)))


@settings(max_examples=150, deadline=None)
@given(drift=any_drift, channels=st.sampled_from([1, 3]))
def test_shape_dtype_and_range_are_kept_and_the_input_is_not_touched(drift, channels):
    x = images(channels=channels)
    before = x.clone()
    drifted = drift(x)
    assert drifted.shape == x.shape and drifted.dtype == x.dtype
    assert torch.isfinite(drifted).all() and drifted.min() >= 0 and drifted.max() <= 1
    assert torch.equal(x, before)


@settings(max_examples=100, deadline=None)
@given(drift=any_drift, order=st.permutations(range(6)), cut=st.integers(1, 6))
def test_a_sample_drifts_alike_in_any_batch(drift, order, cut):
    x, index = images(), torch.tensor([3, 900, 7, 0, 2**40, 12])
    whole = drift(x, index)
    some = torch.tensor(order[:cut])
    torch.testing.assert_close(drift(x[some], index[some]), whole[some], rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(SIGNAL_DRIFTS), spectrogram=st.booleans())
def test_signals_keep_their_shape_and_drift_alike_in_any_batch(data, kind, spectrogram):
    drift, index = Drift(kind, data.draw(severities(kind))), torch.arange(10, 16)
    x = images() * 6 - 3 if spectrogram else signals()
    whole = drift(x, index, signal=True)
    assert whole.shape == x.shape and torch.isfinite(whole).all()
    torch.testing.assert_close(drift(x[4:5], index[4:5], signal=True), whole[4:5], rtol=0, atol=1e-5)


def test_spectrograms_drift_in_standard_deviations_and_are_not_clipped():
    x = torch.randn(8, 2, 40, 30, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0]).view(2, 1, 1)
    chain = as_drift("noise=0.5+contrast=0.5")
    drifted = chain(x, signal=True)
    assert drifted.min() < -2 and drifted.max() > 2
    for channel, std in enumerate((1.0, 3.0)):  # each channel about its own mean
        expected = 0.5 * (std**2 + 0.5**2) ** 0.5
        assert drifted[:, channel].std().item() == pytest.approx(expected, rel=0.02)
    assert set(Drift("impulse_noise", 1.0)(x, signal=True).unique().tolist()) == {-SPIKE, SPIKE}
    with pytest.raises(ValueError, match=r"'brightness' has no meaning on signals, got \(8, 2, 40, 30\)(.*)all lie in 0..1"):
        Drift("brightness")(x, signal=True)


@pytest.mark.parametrize("kind", DRIFTS)
def test_identity_severity_changes_nothing(kind):
    x = images()
    assert torch.equal(Drift(kind, DRIFT_KINDS[kind].identity)(x), x)


@pytest.mark.parametrize("kind", DRIFTS)
def test_levels_grow_and_change_the_image(kind):
    # A smooth bump: on white noise the mildest blur or shift is already as far away as the strongest.
    line = torch.linspace(-2, 2, 32)
    x = (-(line[:, None] ** 2) - 3 * (line - 0.3) ** 2).exp().expand(4, 3, 32, 32)
    distances = [float((Drift(kind, level=level)(x) - x).abs().mean()) for level in range(1, 6)]
    assert distances[0] > 0 and distances == sorted(distances)


@pytest.mark.parametrize("kind", ["noise", "impulse_noise", "occlusion"])
def test_samples_and_seeds_differ(kind):
    x = torch.full((2, 1, 16, 16), 0.5)
    first = Drift(kind, 0.3)(x)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, Drift(kind, 0.3, seed=1)(x))


def test_noise_has_the_stated_sigma_and_is_white():
    x = torch.full((64, 1, 64, 64), 0.5)
    noise = Drift("noise", 0.08)(x) - x
    assert noise.std().item() == pytest.approx(0.08, rel=0.01) and abs(noise.mean().item()) < 1e-3
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.var()
    samples = (noise[1:] * noise[:-1]).mean() / noise.var()
    assert abs(neighbours) < 0.01 and abs(samples) < 0.01


def test_a_chain_of_two_noises_draws_twice():
    x = torch.full((16, 1, 64, 64), 0.5)
    twice = as_drift("noise=0.05+noise=0.05")(x) - x
    assert twice.std().item() == pytest.approx(0.05 * math.sqrt(2), rel=0.02)


def test_uniform_is_open_and_spread_evenly():
    draw = SampleRandom(torch.arange(200), seed=5, stream="test").uniform(5000)
    assert 0 < draw.min() and draw.max() < 1
    counts = torch.histc(draw, 100, 0, 1)
    expected = draw.numel() / 100
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 60 < chi_square < 150  # 99 degrees of freedom: mean 99, standard deviation 14
    assert torch.corrcoef(draw[:50]).fill_diagonal_(0).abs().max() < 0.08


def test_blur_is_a_box_filter():
    x = torch.zeros(1, 1, 7, 7)
    x[0, 0, 3, 3] = 0.9
    blurred = Drift("blur", 3)(x)[0, 0]
    torch.testing.assert_close(blurred[2:5, 2:5], torch.full((3, 3), 0.1))
    assert blurred.sum().item() == pytest.approx(0.9)
    flat = torch.full((1, 3, 8, 8), 0.7)
    torch.testing.assert_close(Drift("blur", 7)(flat), flat)  # borders do not darken


def test_contrast_scales_about_the_mean_of_the_image():
    x = images() * 0.2 + 0.4
    drifted = Drift("contrast", 0.3)(x)
    torch.testing.assert_close(drifted.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(drifted.std((1, 2, 3)), 0.3 * x.std((1, 2, 3)))


def test_brightness_and_shift_do_what_they_say():
    x = images() * 0.5
    torch.testing.assert_close(Drift("brightness", 0.2)(x), x + 0.2)
    torch.testing.assert_close(Drift("shift", 2)(x)[..., 2:, 2:], x[..., :-2, :-2])
    torch.testing.assert_close(Drift("shift", -1)(signals())[..., :-1], signals()[..., 1:])


def test_rotation_turns_counter_clockwise_also_oblong_images():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 8] = 1  # right of the centre
    torch.testing.assert_close(Drift("rotation", 90)(x), torch.rot90(x, 1, (2, 3)), atol=1e-5, rtol=0)
    square = torch.zeros(1, 1, 21, 41)
    square[0, 0, 5:16, 15:26] = 1
    turned = Drift("rotation", 90)(square)
    torch.testing.assert_close(turned, square, atol=1e-4, rtol=0)  # a square stays one: no shear on oblong images


def test_gain_and_offset_belong_to_the_sensor():
    x = signals()
    drifted = Drift("gain_offset", 0.2, seed=3)(x)
    for channel in range(x.shape[1]):
        gain = (drifted[0, channel, 1] - drifted[0, channel, 0]) / (x[0, channel, 1] - x[0, channel, 0])
        assert min(abs(gain - 0.8), abs(gain - 1.2)) < 1e-3
        offset = drifted[:, channel] - gain * x[:, channel]
        torch.testing.assert_close(offset.abs(), torch.full_like(offset, 0.1), atol=1e-3, rtol=0)


def test_impulse_noise_hits_the_stated_fraction():
    hit = Drift("impulse_noise", 0.2)(torch.full((8, 1, 64, 64), 0.5))
    assert (hit == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (hit == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert set(Drift("impulse_noise", 1.0)(signals()).unique().tolist()) == {-SPIKE, SPIKE}


def test_pixelation_averages_blocks_also_at_a_ragged_edge():
    x = images(height=10, width=7)
    blocks = Drift("pixelation", 4)(x)
    torch.testing.assert_close(blocks[..., :4, :4], x[..., :4, :4].mean((2, 3), keepdim=True).expand(-1, -1, 4, 4))
    torch.testing.assert_close(blocks[..., 8:, 4:], x[..., 8:, 4:].mean((2, 3), keepdim=True).expand(-1, -1, 2, 3))


def test_occlusion_hides_one_block_of_the_stated_area():
    x = torch.ones(50, 3, 20, 20)
    hidden = Drift("occlusion", 0.25)(x) == 0
    assert (hidden.sum((2, 3)) == 100).all()
    rows, columns = hidden[:, 0].any(2).sum(1), hidden[:, 0].any(1).sum(1)
    assert (rows == 10).all() and (columns == 10).all()
    assert (Drift("occlusion", 0.25)(torch.ones(4, 2, 40)) == 0).sum(2).eq(10).all()
    assert (Drift("occlusion", 1.0)(x) == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog",), "unknown drift 'fog'; known are: noise, blur"),
        (("noise", -0.1), r"severity -0.1 is outside 0..2 \(standard deviation"),
        (("noise", math.nan), "severity nan is outside"),
        (("noise", "much"), "severity 'much' is not a number"),
        (("blur", 4), "severity 4 is not an odd whole number"),
        (("pixelation", 2.5), "severity 2.5 is not a whole number"),
        (("noise", None, 0, 6), "level 6 is not one of 1, 2, 3, 4, 5"),
        (("noise", 0.1, 0, 2), "give severity=0.1 or level=2, not both"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Drift(*arguments)


@pytest.mark.parametrize(
    ("kind", "x", "message"),
    [
        ("noise", torch.zeros(2, 3), "expected images"),
        ("noise", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "expected floats"),
        ("noise", torch.full((2, 1, 4, 4), 255.0), "pixels must lie in 0..1, got 255..255; .* of spectrograms say signal=True"),
        ("noise", torch.full((2, 1, 4, 4), math.nan), "pixels must lie in 0..1"),
        ("rotation", torch.zeros(2, 6, 64), "no meaning on signals.* those that have: noise, blur"),
        ("blur", torch.zeros(2, 1, 4, 4), "too large for .* shortest side is 4"),
    ],
)
def test_bad_input_is_refused(kind, x, message):
    with pytest.raises(ValueError, match=message):
        Drift(kind)(x)
    with pytest.raises(ValueError, match="index has shape"):
        Drift("noise")(images(), torch.arange(3))


def test_every_way_to_write_a_drift():
    noise = Drift("noise", 0.08)
    assert as_drift(None) is None
    assert as_drift(noise) is noise
    assert as_drift("noise", 0.08) == as_drift("noise=0.08") == as_drift({"kind": "noise", "severity": 0.08}) == noise
    assert as_drift(["noise=0.08"]) == as_drift("noise") == as_drift({"kind": "noise", "level": 3}) == noise
    assert as_drift({"kind": "noise"}, 0.08, seed=4) == Drift("noise", 0.08, seed=4)
    chain = as_drift("contrast=0.3 + blur=3")
    assert chain == as_drift([{"kind": "contrast", "severity": 0.3}, Drift("blur", 3)])
    assert isinstance(chain, DriftChain) and str(chain) == "contrast=0.3+blur=3"
    x = images()
    torch.testing.assert_close(chain(x), Drift("blur", 3)(Drift("contrast", 0.3)(x)))


@settings(max_examples=40)
@given(st.lists(any_drift, min_size=1, max_size=3))
def test_plain_form_reads_back(drifts):
    drift = as_drift(drifts)
    assert as_drift(drift_as_plain(drift)) == drift


@pytest.mark.parametrize(
    ("spec", "severity", "message"),
    [
        (None, 0.1, "given without a drift"),
        ("noise=x", None, "'x' is not a number"),
        ("noise=0.1", 0.1, "a second severity"),
        (Drift("noise"), 0.1, "a second severity"),
        ("noise+blur", 0.1, "one severity .* for 2 drifts"),
        ({"severity": 0.1}, None, "expected the key 'kind'"),
        ({"kind": "noise", "sigma": 0.1}, None, "expected the key 'kind'"),
        ("noise+", None, "unknown drift ''"),
        ([], None, "not a drift"),
        ([None], None, "an entry is empty"),
        (3, None, "not a drift: 3"),
    ],
)
def test_bad_specs_are_refused(spec, severity, message):
    with pytest.raises(ValueError, match=message):
        as_drift(spec, severity)
