"""The frozen body of a library in integers: the int8 kernels of inference, with the bits of Python."""

import copy
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fwd_export import export_library
from lightning_fwd_export.boards import board
from lightning_fwd_export.library.on_board import adapt_on_board
from test_library import samples as clusters
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.adaptation.integer_stages import IntegerNetwork, IntegerStages
from lightning_fwd.integer.body import as_rescale, rescale
from lightning_fwd.recipes import starting_network
from lightning_fwd.recipes.adaptation import load_adaptation

HEAD = [lf.Stage("sparse_update", {"train": "head"}, lr=0.05, epochs=3, batch_size=1, momentum=0.0, schedule="constant", name="head")]
FIRMWARE = lf.Firmware(samples=40, precision="integer")
samples = partial(clusters, shape=(1, 6, 8))


class Body(nn.Module):
    """Stride, padding on two sides, depthwise, a residual sum with and without ReLU, a 1x1 shortcut; a tail that learns or not."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, 2, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.pointwise = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 8, 1)
        self.short, self.same, self.last, self.head = (
            nn.Conv2d(6, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        h = self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))).relu()
        h = self.pointwise(self.depthwise(h).relu()) + self.short(h)
        h = (self.same(h).relu() + h).relu()
        return self.head((self.last(h) + h).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    net = Body()
    net.train()(samples(64)[0])  # statistics of its own
    return net.eval()


SOURCE = samples(60, seed=1)[0]


def test_it_predicts_as_the_float_network(net):
    library = IntegerStages(net, HEAD, ["head"], SOURCE, lf.Integer(room=1))
    targets = [str(n.target) for n in library.forward.graph.nodes if n.op == "call_function"]
    assert sum("int_body" in t for t in targets) == 9 and not any("int_conv" in t for t in targets)
    x = samples(100, seed=3)[0]
    with torch.no_grad():
        wanted = net(x)
    got = IntegerNetwork(library, library.state)(x)
    assert (got - wanted).abs().max() < 0.1 * wanted.abs().max() and (got.argmax(1) == wanted.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("train", ["head", {"last": 1.0, "head": 1.0}, {"last": 0.5, "head": 1.0}], ids=["head", "last", "half"])
def test_c_has_its_bits(net, tmp_path, train):
    """The export compares every logit and weight of the C with Python."""
    stage = lf.Stage("sparse_update", {"train": train}, lr=0.05, epochs=3, batch_size=2, momentum=0.0, name="some")
    report = export_library(net, [stage], SOURCE[:1], tmp_path, firmware=FIRMWARE, source=SOURCE, steps=4)
    code = (tmp_path / "c" / "lfwd_model.c").read_text()
    forward = code[code.index("\nvoid lfwd_forward(") :]
    assert report.steps == {"some": 4} and "lfwd_depthwise_conv2d_s8(" in forward and "lfwd_int_body_add(" in forward


def test_rescaling_is_that_of_the_int8_kernels():
    """Half up in the product, half away from zero in the shift; worked by hand."""
    half = torch.tensor(1 << 30)
    values = torch.tensor([3, -3, 4, 1000, -1000])
    assert rescale(values, half, torch.tensor(0)).tolist() == [2, -1, 2, 500, -500]
    assert rescale(values, half, torch.tensor(-1)).tolist() == [1, -1, 1, 250, -250]
    for factor in (0.3, 1.0, 1e-4, 0.75):
        multiplier, shift = as_rescale(factor)
        assert (1 << 30) <= multiplier < 1 << 31 and multiplier * 2.0 ** (shift - 31) == pytest.approx(factor, rel=1e-8)


def test_of_a_weight_that_learns_in_part_the_part_alone_is_a_master(net, tmp_path):
    """The rest stays int8 in Flash, and what was learned finds its inputs on the way back."""
    stage = lf.Stage("sparse_update", {"train": {"last": 0.5, "head": 1.0}}, lr=0.3, epochs=3, batch_size=1, momentum=0.0, name="some")
    x, y = samples(40, seed=5, drift=True)
    done = lf.adapt(net, [stage], (x, y), firmware=FIRMWARE, source=SOURCE, held_back=0)
    library = done.device_after.stages
    (index,) = library.split.values()
    assert library.state["last.weight"].shape == (8, 4, 3, 3) and library.state["last.weight.frozen"].dtype == torch.int8
    moved = (done.network.last.weight != net.last.weight).any(0).any(1).any(1)
    assert moved.nonzero().flatten().tolist() == index.tolist() and len(index) == 4
    export_library(net, [stage], SOURCE[:1], tmp_path, firmware=FIRMWARE, source=SOURCE, held_back=0)
    state = done.device_after.state
    got = copy.deepcopy(net)
    lf.load_device_weights(got, b"".join(np.ascontiguousarray(state[n].numpy()).tobytes() for n in library.weights), tmp_path)
    assert torch.equal(got.last.weight, done.network.last.weight) and torch.equal(got.head.weight, done.network.head.weight)


@pytest.mark.slow
@pytest.mark.board
@pytest.mark.skipif("LIGHTNING_FWD_DATA" not in os.environ, reason="LIGHTNING_FWD_DATA is not set")
def test_resnet8_learns_on_an_m4_at_little_more_than_inference(tmp_path, emulator):
    """16 channels of block3.conv2 and the head on drifted images: every bit, instructions, RAM as linked, accuracy."""
    recipe = load_adaptation(Path(__file__).parents[2] / "recipes" / "adapt_resnet8_integer.yaml")
    net, home, target = starting_network(recipe).eval(), recipe.data_module("source"), recipe.data_module("target")
    (x, y), (test, truth), firmware = target.tensors("train"), target.tensors("test"), recipe.built_firmware()
    common = {"firmware": firmware, "source": home.tensors("train")[0], "seed": recipe.seed}
    done = lf.adapt(net, recipe.built_stages(), (x, y), **common)
    report = export_library(net, recipe.built_stages(), x[:1], tmp_path, steps=2, **common)
    ran = adapt_on_board(tmp_path / "c", board("mps2-an386"), x, y, test)
    state, names = done.device_after.state, done.device_after.stages.weights
    assert ran.weights == b"".join(np.ascontiguousarray(state[n].numpy()).tobytes() for n in names)
    assert torch.equal(ran.before, done.device_before(test)) and torch.equal(ran.after, done.device_after(test))
    before, after = (100 * float((logits.argmax(1) == truth).float().mean()) for logits in (ran.before, ran.after))
    prediction, step = ran.instructions
    ram = ran.ram - report.ram_bytes["adapt"]  # without the loop's buffer of samples
    figures = f"instructions {prediction:,} and {step:,}, RAM {ram:,}, Flash {ran.flash:,}"
    print(f"accuracy {before:.1f} -> {after:.1f} %, {figures}")
    assert after > before + 5 and ran.stages[0].kept
    assert step <= 1.06 * prediction and step <= 1.06 * INT8_INSTRUCTIONS and ram <= INT8_RAM + 24 * 1024


INT8_INSTRUCTIONS, INT8_RAM = 22_555_156, 49_744  #: int8 inference alone: tools/lightning_fwd_export/README.md, "Int8 inference"


def test_a_head_over_all_blocks_reads_the_body(net, tmp_path):
    """Averages of every block, standardised: one pass over sums; and the C of it has the bits."""
    wide = lf.widen_head(net, SOURCE).eval()
    library = IntegerStages(wide, HEAD, ["head"], SOURCE, lf.Integer(room=1))
    targets = [str(n.target) for n in library.forward.graph.nodes if n.op == "call_function"]
    assert "lfwd.int_body_features.default" in targets and not any("int_pool" in t for t in targets)
    x = samples(100, seed=3)[0]
    with torch.no_grad():
        wanted = wide(x)
    got = IntegerNetwork(library, library.state)(x)
    assert (got - wanted).abs().max() < 0.1 * wanted.abs().max() and (got.argmax(1) == wanted.argmax(1)).float().mean() > 0.9
    report = export_library(wide, HEAD, SOURCE[:1], tmp_path, firmware=FIRMWARE, source=SOURCE, steps=4)
    assert report.steps == {"head": 4}
