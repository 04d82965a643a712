"""The device's loop on the host: what it draws, keeps and takes back. That the C does the same: tests/export/test_library.py."""

import random

import pytest
import torch

import lightning_fwd as lf
from lightning_fwd.adaptation.draws import UNLABELLED, Buffer, hold_back, order
from lightning_fwd.adaptation.firmware import through_int8
from lightning_fwd.models import SmallConv


def test_an_order_is_another_one_for_each_stage_and_epoch():
    drawn = [tuple(order(50, seed, stage, epoch)) for seed in (0, 1) for stage in (0, 1) for epoch in (0, 1)]
    assert all(sorted(places) == list(range(50)) for places in drawn) and len(set(drawn)) == 8


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.5])
def test_of_each_class_a_share_is_held_back_and_nothing_unlabelled(share):
    labels = [i % 4 - 1 for i in range(120)]
    held = hold_back(labels, share, 5)
    for label in range(3):
        of_class = [h for h, there in zip(held, labels, strict=True) if there == label]
        assert abs(sum(of_class) - share * len(of_class)) <= 1
    assert not any(h for h, label in zip(held, labels, strict=True) if label == UNLABELLED)
    assert share == 0 or held != hold_back(labels, share, 6)


def test_a_rare_class_keeps_its_samples_and_a_common_one_those_of_all_times():
    rng, buffer, since = random.Random(1), Buffer(40, 4, 0), {}
    for time in range(2000):
        slot = buffer.add(rng.choices([0, 1, 2, 3], [70, 28, 1, 1])[0])
        if slot is not None:
            since[slot] = time
    counts = [buffer.labels.count(c) for c in range(4)]
    assert max(counts) - min(counts) <= 2, counts
    common = [time for slot, time in since.items() if buffer.labels[slot] == 0]
    assert min(common) < 1000 < max(common)


def test_a_buffer_of_bytes_is_wrong_by_half_a_step_at_most():
    x = torch.randn(5, 3, 4) * torch.tensor([1e-3, 1.0, 1e3, 0.0, 7.0]).reshape(-1, 1, 1)
    peak = x.abs().amax((1, 2), keepdim=True)
    assert ((through_int8(x) - x).abs() <= peak / 253).all()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SmallConv(1, (6, 8), 4).eval()


def data(count=80):
    y = torch.arange(count) % 4
    return torch.randn(count, 1, 6, 8, generator=torch.Generator().manual_seed(3)) + y[:, None, None, None], y


def test_the_best_epoch_is_kept_and_the_network_given_stays(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stage = lf.Stage("backprop", lr=0.05, epochs=20, batch_size=4)
    done = lf.adapt(net, [stage], data(), firmware=lf.Firmware(patience=3))
    (result,) = done.stages
    assert result.kept and result.judged_on in (26, 27) and 1 <= result.epochs <= 20 and f"{result.epochs} epochs" in str(done)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    more = lf.adapt(net, [stage], data(), firmware=lf.Firmware(patience=20)).stages[0]
    assert more.after <= result.after and more.epochs == 20


def test_what_diverges_is_taken_back_and_the_next_stage_runs(net):
    stages = [lf.Stage("backprop", lr=1e6, name="wild", batch_size=4), lf.Stage("sparse_update", lr=0.02, batch_size=4)]
    done = lf.adapt(net, stages, data(), firmware=True)
    assert done.rolled_back == ["wild"] and done.stages[1].kept
    few = lf.adapt(net, [lf.Stage("sparse_update", batch_size=64)], data(), firmware=True).stages[0]
    assert not few.kept and "no batch of 64" in few.note


def test_a_label_that_the_network_has_no_class_for_is_refused(net):
    x, y = data()
    with pytest.raises(lf.LightningFwdError, match="label 4 for 4 classes"):
        lf.adapt(net, ["sparse_update"], (x, y + 1), firmware=True)
    with pytest.raises(lf.LightningFwdError, match="samples=70000"):
        lf.Firmware(samples=70000)


def test_dropout_is_drawn_as_on_the_device_and_the_network_has_its_own_layers_again():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 4)).eval()
    stage = lf.Stage("backprop", lr=0.01, epochs=3, batch_size=4)
    done = []
    for seed in (1, 2):  # torch's own generator has no part in it
        torch.manual_seed(seed)
        done.append(lf.adapt(net, [stage], data(), firmware=True).network)
    first, second = (network.state_dict() for network in done)
    assert all(torch.equal(value, second[name]) for name, value in first.items()) and not torch.equal(first["3.weight"], net[3].weight)
    assert all(type(network[2]) is torch.nn.Dropout for network in (net, *done))
