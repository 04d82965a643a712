"""What a forward decides in Python while it is captured: random skips, sizes, types; scripted children; branches for training only."""

import random

import numpy as np
import pytest
import torch
from capture_nets import Net
from method_table import one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph import capture


def by_torch(module):
    return torch.rand(()).item() < 0.5


def by_python(module):
    return random.random() < 0.5


def by_numpy(module):
    return np.random.rand() < 0.5


def by_its_own(module):
    return module.draw.random() < 0.5


class Skipped(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.inside, self.skips = nn.Linear(16, 16), draw
        self.draw = np.random.default_rng(0)

    def forward(self, x):
        return x if self.training and self.skips(self) else x + F.relu(self.inside(x))


class NoiseAtOnce(Skipped):
    """Drawn while tracing, without a size that is traced."""

    def forward(self, x):
        return self.inside(x) + (torch.randn(16) if self.training else 0.0)


CHOICES = [by_torch, by_python, by_numpy, by_its_own]


@pytest.mark.parametrize("draw", CHOICES)
def test_random_skips_stay_random(draw):
    for seed in range(3):  # whatever is drawn while the network is captured
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        states = torch.get_rng_state(), random.getstate()
        net, x = nn.Sequential(nn.Linear(16, 16), Skipped(draw), nn.Linear(16, 4)).train(), torch.randn(6, 16)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        model = lf.rewrite(net, "local_loss", x)
        assert (
            torch.equal(torch.get_rng_state(), states[0])
            and random.getstate() == states[1]
            and np.random.get_state()[1].tolist() == states[2]
        )
        assert "1" in model.opaque
        with torch.no_grad():
            outputs = {tuple(model.run(x).flatten().tolist()) for _ in range(40)}
        assert len(outputs) == 2
        with pytest.raises(lf.RewriteError, match="cannot share what 1"):
            lf.rewrite(lf.unwrap(model), "pepita", x)


def test_noise_drawn_while_tracing_is_not_baked_in():
    net, x = nn.Sequential(NoiseAtOnce(by_torch), nn.Linear(16, 4)).train(), torch.randn(6, 16)
    model = lf.rewrite(net, "backprop", x)
    assert not torch.equal(model.run(x), model.run(x))


@pytest.mark.parametrize("draw", CHOICES)
def test_a_random_skip_of_the_root_is_refused(draw):
    class Root(Skipped):
        def forward(self, x):
            return super().forward(x)[:, :4]

    with pytest.raises(lf.CaptureError, match=r"draws random numbers in Python(.|\n)*submodule"):
        lf.rewrite(Root(draw).train(), "backprop", torch.randn(6, 16))


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita", "direct_feedback", lf.SparseUpdate({"1": 1.0, "2": 1.0})], ids=str)
def test_a_scripted_child_learns(rule):
    net = nn.Sequential(nn.Linear(16, 12), torch.jit.script(nn.Sequential(nn.Linear(12, 12), nn.ReLU())), nn.Linear(12, 4))
    x = torch.randn(6, 16)
    one_step(lf.rewrite(net, rule, x), x, torch.arange(6) % 4)
    assert all(p.grad is not None and p.grad.any() for name, p in net.named_parameters() if name[0] in "12")


class ReadsTypes(Net):
    def forward(self, x):
        h = F.relu(self.a(x.to(self.a.weight.dtype).to(self.a.weight.device)))
        h = F.relu(self.b(h.to(self.b.weight.dtype)))
        return self.o(h.to(self.o.weight))


@pytest.mark.parametrize("rule", ["local_loss", "pepita", "forward_forward", "direct_feedback"])
def test_reading_a_weight_s_type_is_no_layer(rule):
    net, x = ReadsTypes(), torch.randn(6, 16)
    model = lf.rewrite(net, rule, x)
    assert [block.layers for block in model.plan] == [("a",), ("b",), ("o",)]
    one_step(model, x, torch.arange(6) % 4)
    assert all(p.grad is not None for p in net.parameters())


class Stage(nn.Module):
    def __init__(self, auxiliary):
        super().__init__()
        self.layer, self.auxiliary = nn.Linear(16, 16), nn.Linear(16, 16) if auxiliary else None

    def forward(self, x):
        h = F.relu(self.layer(x))
        return h + 0.1 * self.auxiliary(h) if self.training and self.auxiliary is not None else h


def test_a_branch_for_training_makes_its_own_module_opaque_and_no_other():
    net = nn.Sequential(Stage(False), Stage(True), Stage(False), Stage(True), nn.Linear(16, 4))
    assert set(capture(net, torch.randn(3, 16)).opaque) == {"1", "3"}


class TwoOutputsInTraining(Net):
    def forward(self, x):
        h = F.relu(self.a(x))
        return (self.o(h), self.o(self.b(h))) if self.training else self.o(h)


def test_several_outputs_in_training_are_refused():
    with pytest.raises(lf.CaptureError, match="several values in training"):
        lf.rewrite(TwoOutputsInTraining(), "backprop", torch.randn(3, 16))


class Asserts(Net):
    def forward(self, x):
        assert x.shape[1] == 16 and x.dim() == 2
        batch, features = x.shape
        if features != 16:
            raise ValueError
        return self.o(F.relu(self.b(F.relu(self.a(x)).view(batch, -1))))


class Counts(Net):
    def forward(self, x):
        h = F.relu(self.a(x))
        return self.o(sum(h[:, i : i + 1] * self.b(h) for i in range(h.size(1))))


class Makes(Net):
    def forward(self, x):
        state = torch.zeros(x.shape[0], 12)
        for step in x.view(x.shape[0], 2, 8).unbind(1):
            state = F.relu(self.b(state) + self.a(torch.cat([step, step], 1)))
        return self.o(state)


class LastOfTime(Net):
    def forward(self, x):
        h = self.b(F.relu(self.a(x))).view(len(x.shape) and x.shape[0], 3, 4)
        return self.o(h.flatten(1))[:, : h.shape[-1]]


SIZED = [Asserts, Counts, Makes, LastOfTime]


@pytest.mark.parametrize("cls", SIZED)
@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita"])
def test_roots_that_read_sizes_only(cls, rule):
    torch.manual_seed(0)
    net, x = cls().eval(), torch.randn(6, 16)
    more, expected = torch.randn(9, 16), net(x).detach()
    model = lf.rewrite(net, rule, x[:2]).eval()
    assert torch.equal(model(x), expected) and torch.equal(model(more), net(more)) and model.how_captured == "traced" and not model.opaque
    one_step(model, more, torch.arange(9) % 4)
    assert all(p.grad is not None for p in net.parameters())


def test_sizes_that_are_numbers_bind_the_model_to_them():
    class Any16(nn.Module):
        def __init__(self):
            super().__init__()
            self.o = nn.Linear(1, 4)

        def forward(self, x):
            return sum(self.o(x[:, i : i + 1]) for i in range(x.size(1)))

    model = lf.rewrite(Any16(), "backprop", torch.randn(2, 5)).eval()
    with pytest.raises(lf.StepError, match=r"shape \(6,\), the model was rewritten with \(5,\)"):
        model(torch.randn(2, 6))


class CountsTheBatch(Net):
    def forward(self, x):
        return torch.stack([self.o(self.b(self.a(x[i]))) for i in range(x.shape[0])])


class Decides(Net):
    def forward(self, x):
        h = self.a(x)
        if h.sum() > 0:
            h = self.b(h)
        return self.o(h) + self.o(self.b(h))


@pytest.mark.parametrize(("cls", "line"), [(CountsTheBatch, "range"), (Decides, "if h.sum")])
def test_what_cannot_be_captured_names_its_line(cls, line):
    with pytest.raises(lf.CaptureError, match=rf"test_capture_choices.py:\d+: `.*{line}(.|\n)*mend:.*submodule"):
        lf.rewrite(cls(), "backprop", torch.randn(3, 16))
