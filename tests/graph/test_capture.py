"""The capture ladder on what models in the wild do; every net here trains by rules of each kind, or is refused clearly."""

import copy
import random
import warnings

import pytest
import torch
from method_table import one_step
from torch import fx, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph import capture, find_blocks
from lightning_fwd.graph.rewritten import RewrittenModel

RULES = ("backprop", "local_loss", "pepita")


class Net(nn.Module):
    """Two or three layers; subclasses say how they are joined. ``(B, 16) -> (B, 4)``."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 4)


class FunctionalDropout(Net):
    def forward(self, x):
        return self.o(F.dropout(F.relu(self.b(self.a(x))), 0.5, self.training))


class SizeAtTheTop(Net):
    def forward(self, x):
        batch = x.size(0)
        return self.o(F.relu(self.b(F.relu(self.a(x)))).view(batch, -1))


class ShapeAtTheTop(Net):
    def forward(self, x):
        batch = x.shape[0]
        return self.o(F.relu(self.b(F.relu(self.a(x)))).view(batch, -1))


class InPlaceOperators(Net):
    def forward(self, x):
        h = self.a(x)
        h = h + self.b(h)
        h += x[:, :12]
        h *= 2
        return self.o(h.relu_())


class InPlaceStatements(Net):
    """Nothing is done with what the in-place call returns."""

    def forward(self, x):
        h = self.a(x)
        h.mul_(2)
        torch.relu_(h)
        return self.o(F.relu(self.b(h), inplace=True))


class InPlaceAliased(Net):
    """The residual branch is what the in-place ReLU wrote, as in several published networks."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.a(x)
        return self.o(self.b(self.relu(h)) + h)


class CalledTwice(Net):
    def forward(self, x):
        return self.o(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))))


class TiedWeights(Net):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(12, 12)
        self.c.weight = self.b.weight

    def forward(self, x):
        return self.o(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


class FunctionalLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(12, 16) / 4), nn.Parameter(torch.randn(4, 12) / 4)
        self.c = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return F.linear(F.relu(F.linear(x, self.w)), self.v, self.c)


class DerivedWeights(nn.Module):
    """Transposed and standardised on the way, as in GPT-2's and BiT's layers."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(12, 16) / 4), nn.Parameter(torch.randn(12, 4) / 4)

    def forward(self, x):
        v = (self.v - self.v.mean(0)) / (self.v.std(0) + 1e-5)
        return F.relu(x @ self.w.t()) @ v


class KeywordCalls(Net):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.relu = nn.BatchNorm1d(12), nn.Dropout(0.2), nn.ReLU()

    def forward(self, x):
        return self.o(input=self.b(input=self.drop(input=self.relu(input=self.norm(input=self.a(input=x))))))


class Branched(Net):
    def forward(self, x):
        h = F.relu(self.a(x))
        return self.o(torch.cat([self.b(h)[:, :6], h[:, 6:]], 1))


class OptionalArguments(Net):
    def forward(self, x, mask=None, scale=1.0, features=False, *, temperature: float = 2.0, **options):
        if mask is not None:
            x = x * mask
        h = self.b(F.relu(self.a(x)))
        return h if features else self.o(h) * scale / temperature


class StarArguments(Net):
    def forward(self, *args, **kwargs):
        return self.o(F.relu(self.b(self.a(args[0]))))


class ConstantsAndBuffers(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((16,), 0.1))
        self.scale = torch.full((16,), 2.0)

    def forward(self, x):
        h = self.a((x - self.mean) / self.scale)
        return self.o(self.b(h) + torch.arange(12.0) / 12)


class ControlFlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.k = nn.Linear(16, 12), nn.Linear(12, 12)

    def forward(self, x):
        h = F.relu(self.l(x))
        return self.k(h) if h.sum() > 0 else h


class StochasticDepth(Net):
    class Path(nn.Module):
        def forward(self, x):
            if not self.training:
                return x
            return x * torch.bernoulli(torch.full((x.shape[0], 1), 0.5, device=x.device)) * 2

    def __init__(self):
        super().__init__()
        self.path = self.Path()

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.o(h + self.path(self.b(h)))


class UntraceableRoot(Net):
    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError
        return self.o(self.b(self.a(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.n = nn.Linear(4, 8), nn.LayerNorm(8)
        self.m, self.o = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        x = self.e(x.view(x.size(0), 4, 4))
        q = self.n(x)
        return self.o((x + self.m(q, q, q)[0]).mean(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.o = nn.Linear(4, 8), nn.Linear(8, 4)
        layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)]
        self.t, self.u = layers

    def forward(self, x):
        return self.o(self.u(self.t(self.e(x.view(x.size(0), 4, 4)))).mean(1))


class TokensAndPositions(nn.Module):
    """A ViT's front: a class token expanded to the batch, learned positions, a pre-norm residual."""

    def __init__(self):
        super().__init__()
        self.e, self.f, self.o, self.n = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4), nn.LayerNorm(8)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Embedding(5, 8)

    def forward(self, x):
        batch = x.shape[0]
        h = torch.cat([self.token.expand(batch, -1, -1), self.e(x.view(batch, 4, 4))], 1)
        h = h + self.positions(torch.arange(5))
        return self.o((h + F.gelu(self.f(self.n(h)))).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.g, self.o = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.o(self.g(x.view(-1, 4, 4))[0][:, -1])


NETS = {cls.__name__: cls for cls in (
    FunctionalDropout, SizeAtTheTop, ShapeAtTheTop, InPlaceOperators, InPlaceStatements, InPlaceAliased, CalledTwice, TiedWeights,
    FunctionalLayers, DerivedWeights, KeywordCalls, Branched, OptionalArguments, StarArguments, ConstantsAndBuffers, StochasticDepth, UntraceableRoot,
    Attention, Encoder, TokensAndPositions, Recurrent,
)} | {
    "ControlFlow": lambda: nn.Sequential(ControlFlow(), nn.ReLU(), nn.Linear(12, 4)),
    "PReLU": lambda: nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.PReLU(), nn.Linear(12, 4)),
    "NormFirst": lambda: nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 4)),
    "WeightNorm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 12)), nn.ReLU(), nn.Linear(12, 4)
    ),
    "Traced": lambda: fx.symbolic_trace(nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))),
    "Double": lambda: nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4)).double(),
    "Nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(16, 12), nn.Sequential(nn.ReLU())), nn.Sequential(nn.Linear(12, 4))),
}  # fmt: skip


def data(net, count=6):
    dtype = next(net.parameters()).dtype
    return torch.randn(count, 16, dtype=dtype), torch.arange(count) % 4


@pytest.mark.parametrize(
    ("name", "rule"), [(n, r) for n in NETS for r in RULES if (n, r) != ("StochasticDepth", "pepita")]
)  # refused, see below
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


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x) if self.training else x


class LayerDrop(nn.Module):
    """Skipped or not by Python's own generator."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(16, 16)

    def forward(self, x):
        return self.inside(x) * (random.random() < 0.5) if self.training else self.inside(x)


RANDOM = {
    "attention": lambda: nn.Sequential(Encoder(), nn.Identity()),
    "random slope": nn.RReLU,
    "noise": Noise,
    "layer drop": LayerDrop,
    "stochastic depth": StochasticDepth.Path,
}


@pytest.mark.parametrize("rule", ["pepita", "zeroth_order"])
@pytest.mark.parametrize("kind", RANDOM)
def test_rules_that_run_twice_refuse_what_draws_differently_in_each_pass(kind, rule):
    net = nn.Sequential(nn.Linear(16, 16), RANDOM[kind](), nn.Dropout(0.1), nn.LazyLinear(4)).train()
    if kind == "attention":
        net[1][0].t = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    net(torch.zeros(2, 16))
    state = torch.get_rng_state()
    with pytest.raises(lf.RewriteError, match="cannot share what 1.* draws"):
        lf.rewrite(net, rule, torch.zeros(2, 16))
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in net.modules())


class CustomNorm(nn.Module):
    """A batch norm of one's own, by torch's function or by hand."""

    def __init__(self, by_hand):
        super().__init__()
        self.by_hand, self.weight, self.bias = by_hand, nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))
        self.register_buffer("mean", torch.zeros(12)), self.register_buffer("var", torch.ones(12))

    def forward(self, x):
        if self.training and self.by_hand:
            self.mean.lerp_(x.mean(0).detach(), 0.1)
            return self.weight * (x - x.mean(0)) + self.bias
        if self.by_hand:
            return self.weight * (x - self.mean) + self.bias
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, self.training)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("rule", ["pepita", "forward_forward", "sparse_update", lf.Backprop(batch_norm="freeze")], ids=str)
def test_norms_of_one_s_own_are_frozen_as_torch_s_are(rule, by_hand):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(16, 12), CustomNorm(by_hand), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 4)).train(), torch.randn(6, 16)
    net(x)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    model = lf.rewrite(net, rule, x)
    one_step(model, x, torch.arange(6) % 4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert not net[1].training and net[3].training
    assert lf.unwrap(model)[1].training


def test_modes_of_submodules_survive():
    net = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)).train()
    net[1].eval()
    capture(net, torch.zeros(2, 16))
    assert [m.training for m in net] == [True, False, True]


def test_tokens_are_no_input_for_rules_that_change_the_input():
    net = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 4))
    tokens = torch.randint(0, 10, (3, 4))
    with pytest.raises(lf.RewriteError, match="torch.int64"):
        lf.rewrite(net, "pepita", tokens)
    one_step(lf.rewrite(net, "local_loss", tokens), tokens, torch.tensor([0, 1, 2]))


class Named(nn.Module):
    """A layer under a name of one's choice; timm's backbones have `blocks`."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(nn.Linear(4, 6), nn.ReLU()))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(getattr(self, self.name)(x))


PUBLIC = sorted({n for n in vars(RewrittenModel) if not n.startswith("_")} - set(dir(nn.Module)) | set(RewrittenModel.__annotations__))


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, "local_loss") for name in ("blocks", "layers", "input", "relu", "x", "counter", "heads")]
    + [(name, "pepita") for name in ("units", "input_scale", "feedback")]
    + [(name, lf.ZerothOrder(2)) for name in ("places", "before_trained", "after_entry")],
    ids=str,
)
def test_layers_may_have_the_names_of_our_variables(name, rule):
    torch.manual_seed(0)
    net, x, y = Named(name), torch.randn(5, 4), torch.arange(5) % 3
    expected = net(x)
    model = lf.rewrite(net, rule, x)
    with model.step(y):
        loss = nn.functional.cross_entropy(model(x), y)
    model.backward(loss)
    assert torch.equal(lf.unwrap(model)(x), expected)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_layer_named_like_a_part_of_the_rewritten_model_is_refused_before_anything_changes(name):
    net = Named(name)
    with pytest.raises(lf.RewriteError, match=f"Named.{name} cannot be told from"):
        lf.rewrite(net, "local_loss", torch.randn(5, 4))
    assert type(net) is Named and getattr(net, name)[0].weight.requires_grad
    assert lf.rewrite(nn.Sequential(net), "local_loss", torch.randn(5, 4)).num_classes == 3  # the mend that the error names


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
