"""Alignment by its closed form: the target's moments become the source's, and the file of the source's moments is what it says."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.methods.alignment.moments import Moments, mean_and_covariance
from lightning_fwd.methods.alignment.places import find_convolutions
from lightning_fwd.methods.alignment.transport import transport
from lightning_fwd.models import ResNet8


class Net(nn.Module):
    """Convolutions that a map passes into: 1x1 (with a norm), grouped, and one with a kernel, each on values that nothing pads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.single = nn.Conv2d(6, 6, 1, groups=6)
        self.kernel = nn.Conv2d(6, 5, 3, stride=2)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.kernel(self.single(self.norm(self.first(x)))).mean((2, 3)))


def samples(seed: int, mix: float = 0.0, shift: float = 0.0, count: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 9, 9, generator=generator)
    x = x + 0.5 * F.avg_pool2d(x, 3, 1, 1)
    return shift + x + mix * torch.roll(x, 1, 1)


def aligned(net: nn.Module, rule: lf.Alignment, x: Tensor, batch: int = 16) -> nn.Module:
    model = lf.rewrite(copy.deepcopy(net), rule, x[:2]).train()
    for _ in range(50):
        for part in x.split(batch):
            if rule.unfinished(model):
                with model.step():
                    loss = F.cross_entropy(model(part), torch.zeros(len(part), dtype=torch.int64))
                model.backward(loss)
    assert not rule.unfinished(model)
    return lf.unwrap(model).eval()


@torch.no_grad()
def reads(net: nn.Module, x: Tensor, path: str) -> Tensor:
    """What the layer at ``path`` gives."""
    seen = []
    hook = net.get_submodule(path).register_forward_hook(lambda _m, _args, y: seen.append(y))
    net.eval()(x)
    hook.remove()
    return seen[0]


def moments_of(y: Tensor) -> tuple[Tensor, Tensor]:
    rows = y.movedim(1, -1).reshape(-1, y.shape[1]).double()
    return rows.mean(0), (rows - rows.mean(0)).t() @ (rows - rows.mean(0)) / len(rows)


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    net = Net()
    net.norm.momentum = None
    net.train()(samples(1))
    net.eval()
    return net, lf.source_moments(net, [samples(1, count=64).split(20)[i] for i in range(4)], tmp_path / "net.moments", patches=3)


def test_the_map_gives_the_source_s_covariance():
    torch.manual_seed(0)
    source, target = (a @ a.t() for a in torch.randn(2, 5, 5, dtype=torch.float64))
    t = transport(source, target, 1e-12)
    torch.testing.assert_close(t @ target @ t, source)
    torch.testing.assert_close(t, t.t())
    torch.testing.assert_close(transport(source.diagonal(), target.diagonal(), 1e-12) ** 2 * target.diagonal(), source.diagonal())


def test_of_strength_one_each_layer_gives_what_it_gave_at_home(trained):
    """Mean and covariance behind a 1x1 convolution follow from those before it; behind a grouped one, each channel's variance."""
    net, file = trained
    home, away = samples(1), samples(2, mix=0.7, shift=2.0)
    got = aligned(net, lf.Alignment(file, strength=1.0, samples=64), away)
    for wanted, found, before in zip(
        moments_of(reads(net, home, "first")), moments_of(reads(got, away, "first")), moments_of(reads(net, away, "first")), strict=True
    ):
        assert (before - wanted).abs().max() > 0.5
        if wanted.ndim == 2:  # without a bias the first layer leaves the mean to the norm behind it
            torch.testing.assert_close(found, wanted, rtol=5e-3, atol=5e-3)
    for wanted, found in zip(moments_of(reads(net, home, "single")), moments_of(reads(got, away, "single")), strict=True):
        torch.testing.assert_close(found.diagonal() if found.ndim == 2 else found, wanted.diagonal() if wanted.ndim == 2 else wanted,
                                   rtol=5e-3, atol=5e-3)  # fmt: skip


def test_by_patches_the_whole_convolution_gives_what_it_gave_at_home(trained):
    net, file = trained
    home, away = samples(1), samples(2, mix=0.7, shift=2.0)
    got = aligned(net, lf.Alignment(file, strength=1.0, patches=3, patch_strength=1.0, samples=64), away)
    for wanted, found in zip(moments_of(reads(net, home, "kernel")), moments_of(reads(got, away, "kernel")), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)


def test_at_home_it_changes_nothing_but_rounding(trained):
    net, file = trained
    home = samples(1)
    got = aligned(net, lf.Alignment(file, strength=1.0, patches=3, samples=64), home)
    torch.testing.assert_close(got(home), net(home), rtol=2e-2, atol=2e-2)


def test_the_norms_alone_are_recomputed_layer_by_layer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 4))
    x = samples(2, mix=0.7, shift=2.0)
    got = aligned(net, lf.Alignment(samples=64), x)
    reference = copy.deepcopy(net).eval()
    for i in (0, 2):
        before = reference[:i](x)
        reference[i].running_mean, reference[i].running_var = before.mean((0, 2, 3)).detach(), before.var((0, 2, 3)).detach()
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(got.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_sums_are_those_of_patches_whatever_the_batches(batch):
    """Against torch's unfold: asymmetric kernel, stride, padding and dilation; far from zero, where fp32 sums of squares would cancel."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    (place,) = find_convolutions(torch.fx.symbolic_trace(nn.Sequential(conv)).graph, nn.Sequential(conv), 1)
    x = 100 + samples(3, count=14)
    rows = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).movedim(1, -1).flatten(0, -2).double()
    moments = Moments(rows.mean(0) + 1, full=True)
    for part in x.split(batch):
        moments.add(part, place.readings(conv))
    mean, covariance = mean_and_covariance(moments.centre, moments.total, moments.products, moments.count)
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(covariance, (rows - rows.mean(0)).t() @ (rows - rows.mean(0)) / len(rows), rtol=1e-3, atol=1e-2)


def test_signals_and_volumes_have_patches_too():
    for conv, x in ((nn.Conv1d(2, 3, 3, padding="same"), torch.randn(4, 2, 9)), (nn.Conv3d(1, 3, 2), torch.randn(2, 1, 4, 4, 4))):
        (place,) = find_convolutions(torch.fx.symbolic_trace(nn.Sequential(conv)).graph, nn.Sequential(conv), 1)
        read = torch.stack([reading(x) for reading in place.readings(conv)], 2).flatten(1)  # (positions, C x K), as the weight
        torch.testing.assert_close(read @ conv.weight.flatten(1).t() + conv.bias, conv(x).movedim(1, -1).reshape(-1, 3))


def test_rounds_follow_the_network_and_branches_share_one():
    model = lf.rewrite(ResNet8(), lf.Alignment(), torch.zeros(1, 3, 32, 32))
    assert [[p.path for p in r.places] for r in model.inserted.alignment.rounds] == [
        [name] for name in ("stem.bn", "block1.bn1", "block1.bn2", "block2.bn1", "block2.bn2", "block3.bn1", "block3.bn2")
    ]


def test_an_adaptation_chooses_between_two():
    assert lf.Alignment().variants() == [lf.Alignment()] and lf.Alignment("f", 0.7).variants() == [lf.Alignment("f", 0.7)]
    assert lf.Alignment("f").variants() == [lf.Alignment("f", 0.5), lf.Alignment("f", 1.0, patches=3)]


def test_what_ships_and_what_solving_takes_is_told(trained):
    net, file = trained
    model = lf.rewrite(net, lf.Alignment(file), samples(1)[:2])
    beside = model.method.beside_the_step(model)
    values = 3 * 2 * 4 + 3 * 2 + 6 * 2 * 4 + 6 * 2 * 4 + 15 * 2  # first, single, kernel: mean, deviation fp32; correlations fp16
    assert beside == {"flash": values, "ram": 4 * (3 * 36 + 2 * 6), "written": 4 * (18 + 6 + 6 + 270 + 5)}
    assert [n for n in model.method.stages(model)] == [100] * len(model.inserted.alignment.rounds) and not model.inserted.alignment.round


def test_bad_files_are_told(trained, tmp_path):
    net, file = trained
    x = samples(1)[:2]
    before = {n: t.clone() for n, t in net.state_dict().items()}
    for content, message in (
        ({}, "holds no first/channels/mean"),
        (load_file(file) | {"first/channels/mean": torch.zeros(4)}, r"has shape \[4\], this model needs \[3\]"),
        (load_file(file) | {"kernel/channels/deviation": torch.full((6,), torch.nan)}, "not finite"),
        (load_file(file) | {"kernel/channels/deviation": torch.zeros(6, dtype=torch.int64)}, "not finite"),
    ):
        save_file(content, tmp_path / "other")
        with pytest.raises(lf.RewriteError, match=message):
            lf.rewrite(net, lf.Alignment(str(tmp_path / "other")), x)
    (tmp_path / "pickled").write_bytes(b"\x80\x04junk")
    for name in ("pickled", "missing"):
        with pytest.raises(lf.RewriteError, match="lf.source_moments"):
            lf.rewrite(net, lf.Alignment(str(tmp_path / name)), x)
    with pytest.raises(lf.RewriteError, match="holds no kernel/patches"):
        lf.rewrite(net, lf.Alignment(lf.source_moments(net, [samples(1)], tmp_path / "few", patches=0), patches=3), x)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_what_it_cannot_measure_is_told(tmp_path):
    with pytest.raises(lf.RewriteError, match="no samples"):
        lf.source_moments(Net(), [], tmp_path / "none")
    with pytest.raises(lf.RewriteError, match="no plain convolution"):
        lf.source_moments(nn.Sequential(nn.Linear(4, 2)), [torch.zeros(2, 4)], tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(lf.LightningFwdError, match="cannot write"):
        lf.source_moments(Net(), [samples(1)], tmp_path / "file" / "moments")


@pytest.mark.slow
def test_what_a_round_costs_on_resnet8(tmp_path):
    """The figures of the rule's page."""
    net, x = ResNet8().eval(), torch.zeros(1, 3, 32, 32)
    file = lf.source_moments(net, [255 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))], tmp_path / "net")
    kinds: dict[str, list[tuple[int, float]]] = {}
    for patches in (0, 2):
        model = lf.rewrite(net, lf.Alignment(file, patches=patches), x)
        for (first, *_), _ in zip([r.places for r in model.inserted.alignment.rounds], model.method.stages(model), strict=True):
            if first.path in ("block1.conv1", "block2.conv1", "block3.conv2") and (patches == 0 or first.kind == "patches"):
                report = lf.step_cost(model, x)
                kinds.setdefault(first.kind, []).append((report.total_macs // 1000, report.peak_ram_bytes / 1024))
        solve = model.method.beside_the_step(model)["ram"] / 1024
        lf.unwrap(model)
        assert solve == pytest.approx(244.1 if patches else 48.5, abs=0.1)
    assert kinds["patches"] == [(24298, pytest.approx(389, abs=1))]
    assert [round(kmac) for kmac, _ in kinds["channels"]] == [12763, 13042, 12763] and max(ram for _, ram in kinds["channels"]) < 230


def test_a_channel_that_never_varies_goes_with_no_other(tmp_path):
    """Of a dead one the sums are rounding alone, which divided by no deviation was infinite."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    with torch.no_grad():
        net[0].weight[:2] = 0.0
        net[0].bias[:2] = torch.tensor([0.1234567, 0.7654321])
    file = lf.source_moments(net, [torch.randn(16, 3, 8, 8) for _ in range(4)], tmp_path / "moments.safetensors")
    found = load_file(file)
    assert all(value.isfinite().all() for value in found.values())
    assert found["2/channels/correlation"].abs().max() <= 1
    assert lf.rewrite(net, lf.Alignment(file, strength=1.0), torch.randn(2, 3, 8, 8))
