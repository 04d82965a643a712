"""Networks as models in the wild write them, for the tests of capture."""

import torch
from torch import fx, nn
from torch.nn import functional as F

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
    FunctionalLayers, DerivedWeights, KeywordCalls, Branched, OptionalArguments, StarArguments, ConstantsAndBuffers, StochasticDepth,
    UntraceableRoot,
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
