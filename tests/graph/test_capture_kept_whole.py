"""What cannot be captured as it is: kept whole and reported, said to be different in training, or refused with the reason."""

import copy
import warnings

import pytest
import torch
from capture_nets import NETS, RULES, FunctionalDropout, Net, StochasticDepth, UntraceableRoot, data
from method_table import one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph import capture


def test_what_cannot_be_traced_is_kept_whole_and_reported():
    net = NETS["ControlFlow"]()
    captured = capture(net, data(net)[0])
    assert list(captured.opaque) == ["0"] and "control flow" in captured.opaque["0"]
    root = capture(UntraceableRoot(), torch.zeros(2, 16))
    assert root.how == "chain" and list(root.opaque) == ["a", "b", "o"]
    depth = capture(StochasticDepth(), torch.zeros(2, 16))
    assert list(depth.opaque) == ["path"] and "training" in depth.opaque["path"]


def test_stochastic_depth_still_drops_in_training():
    net = StochasticDepth()
    model = lf.rewrite(net, "backprop", torch.zeros(2, 16)).train()
    x = torch.randn(64, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_functional_dropout_follows_the_mode():
    model = lf.rewrite(FunctionalDropout(), "backprop", torch.zeros(2, 16)).train()
    x = torch.randn(8, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_root_that_differs_in_training_is_said():
    class Auxiliary(Net):
        def forward(self, x):
            h = self.b(self.a(x))
            return self.o(h * 2) if self.training else self.o(h)

    with pytest.warns(UserWarning, match="in training"):
        capture(Auxiliary(), torch.zeros(2, 16))


class KeepsFeatures(nn.Module):
    """As attention that keeps its weights to be looked at."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(12, 12)

    def forward(self, x):
        self.features = F.relu(self.b(x))
        return self.features


class CountsCalls(nn.Module):
    def __init__(self, training_only=False):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.training_only = training_only

    def forward(self, x):
        if self.training or not self.training_only:
            self.calls += 1
        return x * 2


@pytest.mark.parametrize("rule", RULES)
def test_a_module_that_writes_into_itself_is_kept_whole(rule):
    net = nn.Sequential(nn.Linear(16, 12), KeepsFeatures(), CountsCalls(), CountsCalls(training_only=True), nn.Linear(12, 4))
    x, y = data(net)
    model = lf.rewrite(net, rule, x[:2])
    assert set(model.opaque) == {"1", "2", "3"} and "features" in model.opaque["1"] and "calls" in model.opaque["2"]
    assert not hasattr(net[1], "features") and net[2].calls == net[3].calls == 0
    one_step(model, x, y)
    assert type(net[1].features) is torch.Tensor and net[2].calls >= 1 and net[2].calls == net[3].calls


class RootWrites(CountsCalls, Net):
    def __init__(self):
        Net.__init__(self)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.training_only = False

    def forward(self, x):
        self.features = F.relu(self.a(x))
        return self.o(super().forward(self.features))


def test_a_root_that_writes_into_itself_is_said_and_left_as_it_was():
    net = RootWrites()
    with pytest.warns(UserWarning, match="RootWrites.forward writes calls, features into"):
        model = lf.rewrite(net, "backprop", torch.zeros(2, 16))
    assert net.calls == 0 and not hasattr(lf.unwrap(model), "features")
    copy.deepcopy(net)


def test_buffers_are_as_before_where_a_model_is_refused():
    net = nn.Sequential(nn.Linear(16, 16), CountsCalls(), RandomInEval())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(lf.CaptureError):
        lf.rewrite(net, "backprop", torch.zeros(2, 16))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_hooks_of_the_root_run_and_those_of_what_holds_layers_are_told():
    net, seen = nn.Sequential(nn.Sequential(nn.Linear(16, 12), nn.ReLU()), nn.Linear(12, 4)), []
    net.register_forward_hook(lambda module, args, out: seen.append("root"))
    net[0][1].register_forward_hook(lambda module, args, out: seen.append("layer"))
    net[0].register_forward_hook(lambda module, args, out: seen.append("holder"))
    x, y = data(net)
    with pytest.warns(UserWarning, match="forward hooks on 0 run while"):
        model = lf.rewrite(net, "local_loss", x)
    seen.clear()
    one_step(model, x, y)
    assert seen == ["layer", "root"]
    lf.unwrap(model)(x)
    assert seen[2:] == ["layer", "holder", "root"]


class WritesIntoItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = nn.Linear(12, 12)

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError
        return self.k(F.relu(x, inplace=True))


class RandomInEval(Net):
    def forward(self, x):
        return self.o(self.b(self.a(x))) + torch.rand_like(x)[:, :1]


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: torch.compile(Net()), "torch.compile"),
        (lambda: nn.DataParallel(Net()), "DataParallel"),
        (lambda: torch.jit.trace(nn.Linear(16, 4), torch.zeros(2, 16)), "TorchScript"),
        (lambda: nn.Sequential(nn.Linear(16, 12), WritesIntoItsInput(), nn.Linear(12, 4)), "writes into its input"),
        (RandomInEval, "does not reproduce"),
        (lambda: nn.Linear(7, 4), "fails on an input of shape (2, 16)"),
        (lambda: nn.Linear(16, 4).double(), "torch.float32"),
    ],
)
def test_refused_with_the_reason(net, words):
    net = net()
    with warnings.catch_warnings(), pytest.raises(lf.CaptureError) as error:
        warnings.simplefilter("ignore")
        lf.rewrite(net, "backprop", torch.zeros(2, 16))
    assert words in str(error.value)
