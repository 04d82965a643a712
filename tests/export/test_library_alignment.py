"""Alignment as a stage of a library, every kind of layer that it maps: the device solves what the host solves."""

import pytest
import torch
from library_on_host import HostLibrary
from lightning_fwd_export import export_library
from lightning_fwd_export.boards import board
from lightning_fwd_export.library.on_board import adapt_on_board
from test_library import CLASSES, SHAPE, require_equal, require_weights, samples, trained
from torch import nn

import lightning_fwd as lf

pytestmark = pytest.mark.slow
FIRMWARE = lf.Firmware(samples=60, patience=2)


class Net(nn.Module):
    """Patches, a factor for each channel, and channels, norms between them."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(SHAPE[0], 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.single, self.mix, self.last = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.head = nn.ReLU(), nn.Linear(48, CLASSES)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        return self.head(self.relu(self.last(self.mix(self.single(x)))).flatten(1))


def drifted(count: int, seed: int):
    """Neighbours run together, darker, and noise on top."""
    x, y = samples(count, seed)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return 0.4 * x + 0.3 * torch.roll(x, 1, 3) - 1.0 + 0.6 * noise, y


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The network, its stages, and the exported library: a map in front of it, relative norms, then the head."""
    torch.manual_seed(0)
    home, folder = samples(300, seed=1)[0], tmp_path_factory.mktemp("alignment")
    net = lf.map_input(trained(Net()), home)
    source = lf.source_moments(net, [home], folder / "net", patches=1)
    rule = lf.Alignment(source, strength=0.8, patches=1, samples=50, norms="relative")
    stages = [lf.Stage(rule, batch_size=2), lf.Stage("sparse_update", {"train": "head"}, lr=0.02, epochs=6, batch_size=4, name="head")]
    report = export_library(net, stages, samples(2)[0], folder / "out", firmware=FIRMWARE, seed=3, steps=3)
    return net, stages, (report, folder / "out")


def test_the_device_solves_what_the_host_solves(made, tmp_path):
    net, stages, exported = made
    x, y = drifted(60, 2)
    library = HostLibrary(exported[1] / "c", tmp_path)
    library.add_all(x, y)
    done, reports = lf.adapt(net, stages, (x, y), firmware=FIRMWARE, seed=3), library.adapt()
    require_equal(reports, done)
    require_weights(net, library.weights, exported, done, tolerance=3e-5)
    assert reports[0].outcome == "kept" and exported[0].steps["alignment"] > exported[0].steps["head"] == 3
    before, after = net.state_dict(), done.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    mapped = {f"{layer}.weight" for layer in ("stem", "single", "mix")} | {f"{norm}.running_var" for norm in ("norm", "last")}
    assert {name.removeprefix("network.") for name in moved} >= mapped and any("map" in name for name in moved), moved


@pytest.mark.board
def test_an_emulated_m4_does_too(made, emulator):
    net, stages, exported = made
    (x, y), (test, _) = drifted(60, 2), drifted(40, 9)
    ran = adapt_on_board(exported[1] / "c", board("mps2-an386"), x, y, test, timeout=300)
    done = lf.adapt(net, stages, (x, y), firmware=FIRMWARE, seed=3)
    require_equal(ran.stages, done)
    require_weights(net, ran.weights, exported, done, tolerance=3e-5)
    assert ran.between[0] > 0 == ran.between[1]
    report = exported[0]
    assert ran.ram == pytest.approx(sum(report.ram_bytes.values()), rel=0.02)
    assert ran.flash == pytest.approx(report.flash_bytes["Cortex-M4"], rel=0.05)
