"""Sparse update of the error itself (dynamic sparsity), and of weights in integer units."""

from __future__ import annotations

import copy
import csv

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.classifier import Classifier
from lightning_fwd.cost import step_cost
from lightning_fwd.methods.sparse_update.quantisation import scale_for_integers
from lightning_fwd.models import SmallConv


def gradients_of(net: nn.Module, method: lf.SparseUpdate, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    model = lf.rewrite(copy.deepcopy(net), method, x)
    model.train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def conv_batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)


# ---- dynamic sparsity of the error


def test_half_of_the_error_is_the_error_of_the_largest_half():
    net = mlp()
    x, y = torch.randn(5, 10), torch.arange(5) % 3
    got = gradients_of(net, lf.SparseUpdate(["0", "2", "4"], error_density=0.5), x, y)

    def keep_half(grad: Tensor) -> Tensor:
        keep = grad.abs().sum(0).topk(grad.shape[1] // 2).indices
        return grad * torch.zeros(grad.shape[1]).index_fill_(0, keep, 1.0)

    h = x
    for i, layer in enumerate(net):
        h = layer(h)
        if i in (0, 2):
            h.register_hook(keep_half)
    F.cross_entropy(h, y).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(got[name], p.grad)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), st.floats(1e-3, 1.0))
def test_the_density_follows_the_size_of_the_error(a, b, scale):
    """ceil(channels * (low + (high - low) Y / Y_max)), with the largest error in the first step."""
    low, high = sorted((a, b))
    x, y = conv_batch()
    model = lf.rewrite(SmallConv(1, (8, 16), 4), lf.SparseUpdate(["stage1", "stage2"], error_density=(low, high)), x)
    model.train()
    for factor in (1.0, scale):
        with model.step(y):
            loss = factor * F.cross_entropy(model(x), y)
        model.backward(loss)
    if low == 1.0:
        return
    for path, density in model.inserted.error_sparsity.densities().items():
        count = model.get_submodule(path).weight.shape[0]
        wanted = (low + (high - low) * scale) * count
        # the error of a layer is made from that of the layers above, themselves thinned out more: it may only be smaller
        assert 1 <= density * count <= min(count, wanted + 1.001)
        assert density * count >= min(max(1, low * count - 1e-3), count)


def test_a_lower_bound_costs_less():
    x, y = conv_batch()
    macs = [step_cost(SmallConv(1, (8, 16, 16), 4), (x, y), method=lf.SparseUpdate(4, error_density=d)).total_macs for d in (0.5, 1.0)]
    assert macs[0] < 0.9 * macs[1]


def test_step_cost_shows_what_each_step_needed(tmp_path):
    x, y = torch.randn(48, 1, 8, 8), torch.arange(48) % 4
    module = Classifier(SmallConv(1, (8, 16, 16), 4), lr=0.05)
    strategy = lf.ForwardOnlyStrategy(lf.SparseUpdate(4, error_density=(0.1, 1.0)), module="network", from_scratch=True)
    trainer = L.Trainer(
        max_epochs=4, strategy=strategy, callbacks=[lf.StepCost(dirpath=tmp_path)], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), 8))
    rows = list(csv.DictReader((tmp_path / "step_cost.csv").open()))
    needed, macs = [int(row["macs_needed"]) for row in rows], {int(row["macs"]) for row in rows}
    assert len(macs) == 1 and len(set(needed)) > 3 and max(needed) <= max(macs) and needed[0] == max(macs)
    # at one channel per layer the step is that of the fixed lowest density, whose price the ledger knows
    assert min(needed) >= step_cost(SmallConv(1, (8, 16, 16), 4), (x[:8], y[:8]), method=lf.SparseUpdate(4, error_density=0.1)).total_macs


def test_full_density_needs_all_work():
    x, _ = conv_batch()
    model = lf.rewrite(SmallConv(1, (8, 16), 4), lf.SparseUpdate("head"), x)
    assert model.method.work_needed(model) == {}


# ---- integer weights


class Integer(nn.Module):
    """A linear layer with weights and inputs in integer units."""

    def __init__(self, real: nn.Linear, scale: float, x_scale: float) -> None:
        super().__init__()
        self.fc, self.scale, self.x_scale = nn.Linear(4, 3), scale, x_scale
        with torch.no_grad():
            self.fc.weight.copy_(real.weight / scale)
            self.fc.bias.copy_(real.bias / (scale * x_scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x / self.x_scale) * (self.scale * self.x_scale)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-3, 0.5), st.floats(1e-2, 2.0))
def test_scaling_makes_integer_training_equal_to_real_training(scale, x_scale):
    """G_W / s_w^2 and G_b / (s_w s_x)^2: the formula, and what it is for."""
    torch.manual_seed(0)
    real, x, y = nn.Sequential(nn.Linear(4, 3)), torch.randn(6, 4), torch.arange(6) % 3
    net = Integer(real[0], scale, x_scale)
    wanted = gradients_of(real, lf.SparseUpdate(), x, y)
    plain = gradients_of(net, lf.SparseUpdate(), x, y)
    got = gradients_of(net, lf.SparseUpdate(integer_scales={"fc": (scale, x_scale)}), x, y)
    close = dict(rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(got["fc.weight"], plain["fc.weight"] / scale**2, rtol=1e-6, atol=0)
    torch.testing.assert_close(got["fc.bias"], plain["fc.bias"] / (scale * x_scale) ** 2, rtol=1e-6, atol=0)
    # one SGD step on w / s with this gradient moves w by s * gradient
    torch.testing.assert_close(got["fc.weight"] * scale, wanted["0.weight"], **close)
    torch.testing.assert_close(got["fc.bias"] * scale * x_scale, wanted["0.bias"], **close)
    assert list(scale_for_integers([], {})) == []


@pytest.mark.parametrize("scales", [{"nowhere": (1.0, 1.0)}, {"0": (0.0, 1.0)}, {"0": (1.0,)}, {"0": 0.1}, {"0": (1.0, 1.0)}])
def test_bad_scales_are_refused(scales):
    with pytest.raises(lf.RewriteError, match="integer_scales"):
        lf.rewrite(mlp(), lf.SparseUpdate(integer_scales=scales), torch.randn(2, 10))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).relu()).relu())


@pytest.mark.parametrize("layer", ["a", "b"])
def test_a_tied_weight_is_scaled_under_either_name(layer):
    torch.manual_seed(0)
    net, x, y = Tied(), torch.randn(6, 5), torch.arange(6) % 3
    plain = gradients_of(net, lf.SparseUpdate(3), x, y)
    scaled = gradients_of(net, lf.SparseUpdate(3, integer_scales={layer: (0.5, 0.5)}), x, y)
    factors = {"a.weight": 4.0, f"{layer}.bias": 16.0}
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name], gradient * factors.get(name, 1.0), msg=name)


def test_a_tied_weight_has_one_scale():
    with pytest.raises(lf.RewriteError, match="tied"):
        lf.rewrite(Tied(), lf.SparseUpdate(3, integer_scales={"a": (0.5, 0.5), "b": (0.25, 0.5)}), torch.randn(6, 5))
