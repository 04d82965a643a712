"""Anomalies: thresholds hold what they promise, the map follows drift, and what has no classes is judged by what it reconstructs."""

import numpy as np
import pytest
import torch
from normal_windows import detector, windows
from scipy import stats

import lightning_fwd as lf
from lightning_fwd.adaptation.anomaly import FEWEST, NormalScores, anomaly_scores, recording_scores, student
from lightning_fwd.models import SmallConv

FIRMWARE = lf.Firmware(samples=40, anomalies=0.05)


@pytest.fixture(scope="module", name="net")
def trained():
    return detector()


@pytest.mark.parametrize("count", [FEWEST, 20, 100])
def test_as_many_alarms_as_asked_for_however_few_scores_there_were(count):
    draws = np.random.default_rng(0)
    for share in (0.01, 0.05, 0.1):
        alarms = []
        for _ in range(300):
            scores, spread = draws.normal(size=count + 200), 0.3
            threshold = NormalScores.of(torch.tensor(np.exp(2 + spread * scores[:count]))).threshold(share)
            alarms.append((np.exp(2 + spread * scores[count:]) > threshold).mean())
        assert np.mean(alarms) == pytest.approx(share, rel=0.3)


def test_the_quantile_is_student_s():
    for freedom in (7, 19, 99):
        for share in (1e-4, 1e-3, 0.01, 0.05, 0.3):
            assert student(np.float32(share), np.float32(freedom)) == pytest.approx(stats.t.isf(share, freedom), rel=4e-3)


def test_a_recording_s_score_is_the_mean_of_its_windows(net):
    some = windows(12).reshape(3, 4, -1)
    torch.testing.assert_close(recording_scores(net, some), torch.stack([anomaly_scores(net, part).mean() for part in some]))


def test_the_map_changes_nothing_at_home_and_follows_drift(net):
    x, there = windows(40, seed=1), windows(60, seed=2, drift=True)
    torch.testing.assert_close(net(x), net.net(x), rtol=1e-4, atol=1e-4)
    stage = lf.Stage("statistics", {"norms": ["map"]}, batch_size=13)
    done = lf.adapt(net, [stage], there[:40], firmware=FIRMWARE)
    assert done.stages[0].kept and done.stages[0].judged_on == 14
    before, after = (float(anomaly_scores(each, there[40:]).mean()) for each in (net, done.network))
    assert after < before / 2
    assert torch.equal(done.network.net[1].running_mean, net.net[1].running_mean)  # of the other norms nothing follows


def test_what_makes_the_error_larger_is_taken_back(net):
    wild = lf.Stage("sparse_update", {"train": "biases"}, lr=3.0, epochs=2, momentum=0.0)
    assert not lf.adapt(net, [wild], windows(40, seed=3), firmware=FIRMWARE).stages[0].kept


def test_what_does_not_fit_is_refused(net):
    x, classifier = windows(40), SmallConv(1, (6, 8), 4).eval()
    with pytest.raises(lf.LightningFwdError, match="has no classes to learn from"):
        lf.adapt(net, ["statistics"], x, firmware=True)
    with pytest.raises(lf.LightningFwdError, match="it gives what it reads"):
        lf.adapt(classifier, ["statistics"], torch.randn(20, 1, 6, 8), firmware=FIRMWARE)
    with pytest.raises(lf.LightningFwdError, match="labels for a network that reconstructs"):
        lf.adapt(net, ["statistics"], (x, torch.zeros(40).long()), firmware=FIRMWARE)
    with pytest.raises(lf.LightningFwdError, match="anomalies with precision='integer'"):
        lf.Firmware(anomalies=0.05, precision="integer")
    with pytest.raises(lf.LightningFwdError, match="anomalies=0.9"):
        lf.Firmware(anomalies=0.9)
    with pytest.raises(lf.LightningFwdError, match="from 5 normal scores"):
        NormalScores.of(torch.ones(5)).threshold(0.05)
    with pytest.raises(lf.LightningFwdError, match="finds no batch norm .* under nowhere"):
        lf.rewrite(net, lf.Statistics(norms=["nowhere"]), x[:2])
