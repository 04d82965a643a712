"""The capture ladder on what models in the wild do; every net trains by rules of each kind, and blocks end where they should."""

import copy

import pytest
import torch
from capture_nets import NETS, RULES, KeywordCalls, data
from method_table import one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph import capture, find_blocks


@pytest.mark.parametrize(
    ("name", "rule"), [(n, r) for n in NETS for r in RULES if (n, r) != ("StochasticDepth", "pepita")]
)  # refused: it draws differently in each pass
def test_captured_unchanged_and_every_parameter_learns(name, rule):
    net = NETS[name]()
    x, y = data(net)
    attributes = {path: set(vars(m)) for path, m in net.named_modules()}
    with torch.no_grad():
        expected, alone = net.eval()(x), net(x[:1])
    net.train()
    model = lf.rewrite(net, rule, x[:2]).eval()
    with torch.no_grad():
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x[:1]), alone), "another batch size than the example's"
    one_step(model, x, y)
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    allowed = {"token"} if rule == "pepita" else set()  # a constant is not modulated by the error in the input
    assert set(zero) <= allowed | {n for n in zero if "in_proj_bias" in n}
    assert not model.is_stale()
    lf.unwrap(model)
    assert {path: set(vars(m)) for path, m in net.named_modules()} == attributes


@pytest.mark.parametrize("rule", ["statistics", lf.Backprop(batch_norm="fold"), lf.ZerothOrder(2)], ids=str)
def test_passes_replace_layers_that_are_called_by_keyword(rule):
    torch.manual_seed(0)
    net, (x, y) = KeywordCalls(), data(KeywordCalls())
    expected = copy.deepcopy(net).eval()(x)
    model = lf.rewrite(net, rule, x)
    torch.testing.assert_close(model.eval()(x), expected)
    one_step(model, x, y)


@pytest.mark.parametrize("name", NETS)
def test_backprop_on_the_graph_is_autograd_on_the_model(name):
    net = NETS[name]()
    x, y = data(net)
    net.train()
    torch.manual_seed(5)
    twin = copy.deepcopy(net)
    torch.manual_seed(5)
    expected = torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters()))
    model = lf.rewrite(net, "backprop", x[:2])
    torch.manual_seed(5)
    one_step(model, x, y)
    for (parameter_name, parameter), gradient in zip(net.named_parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6), parameter_name


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("SizeAtTheTop", ["a", "b", "o"]),
        ("ShapeAtTheTop", ["a", "b", "o"]),
        ("InPlaceAliased", ["a", "b", "o"]),
        ("CalledTwice", ["a", "b", "b", "o"]),
        ("DerivedWeights", ["w", "v"]),
        ("Attention", ["e", "m", "o"]),
        ("PReLU", ["0", "3"]),
        ("NormFirst", ["1", "4"]),
    ],
)
def test_blocks_end_where_one_tensor_carries_everything(name, blocks):
    net = NETS[name]()
    found = [b.name for b in find_blocks(capture(net, data(net)[0]).graph_module)]
    assert found == blocks or (name == "InPlaceAliased" and found == ["a", "b", "o"])


class TimeFirst(nn.Module):
    """``(B, T, 5) -> (B, 3)``, with ``(T, B, 8)`` in between."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.o(F.relu(self.b(F.relu(self.a(x)).transpose(0, 1))).mean(0))


@pytest.mark.parametrize(("batch", "steps"), [(6, 4), (6, 6), (1, 2)])
def test_no_block_ends_where_time_comes_first(batch, steps):
    """Also where there are as many steps as samples in the example (of one sample two are made)."""
    net = TimeFirst()
    model = lf.rewrite(net, "local_loss", torch.randn(batch, steps, 5))
    assert [block.output.name for block in model.plan] == ["relu", "mean", "o"]
    one_step(model, torch.randn(3, steps, 5), torch.arange(3))
    assert net.b.weight.grad is not None
