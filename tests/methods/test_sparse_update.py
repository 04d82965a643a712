"""Sparse update: the sliced computation is the masked one, its savings are real, and schemes mean what they say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_table import one_step
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.methods.base import LearningMethod, Logits
from lightning_fwd.methods.local_gradients import local_gradients
from lightning_fwd.methods.scheme import rank_channels, read_scheme, write_scheme
from lightning_fwd.models import ResNet8, SmallConv
from lightning_fwd.passes import insert_gradient_masks
from lightning_fwd.trace import trace_step


class Net(nn.Module):
    """Strided, dilated, depthwise and grouped convolutions, a shortcut, ReLU and ReLU6, batch norm, pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 8, 1, groups=2)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.fc, self.head = nn.Linear(8 * 4, 12), nn.Linear(12, 5)
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.stem(x)))
        h = h + F.relu6(self.grouped(self.depthwise(h)))
        h = self.pool(F.max_pool2d(torch.relu(self.dilated(h)), 2, 1))
        return self.head(self.fc(h.flatten(1)).relu())


@dataclass
class Masked(LearningMethod):
    """The reference: full backpropagation with a mask on each gradient."""

    masks: dict[str, Tensor]
    trained: frozenset[str]

    def rewrite(self, model):
        model.freeze({name for name, _ in model.named_parameters()} - self.trained)
        insert_gradient_masks(model, self.masks)

    def updates(self, model, record):
        with torch.enable_grad():
            (logits,) = model.emit(record.input)
        error = yield Logits(logits)
        yield from local_gradients({name: p for name, p in model.named_parameters() if p.requires_grad}, logits, error)


def batch(shape: tuple[int, ...] = (3, 12, 12), count: int = 4, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator), torch.arange(count) % classes


def net_of(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net()
    net.bn.running_mean.uniform_(-0.2, 0.2)
    net.bn.running_var.uniform_(0.5, 2)
    return net


def gradients_of(net: nn.Module, method: LearningMethod, x: Tensor, y: Tensor, loss_of=F.cross_entropy):
    """Gradients of one step, by name, and the rewritten model (of a copy)."""
    model = lf.rewrite(copy.deepcopy(net), method, x)
    model.train()
    with model.step(y):
        loss = loss_of(model(x), y)
    model.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model


LAYERS = {"stem": 3, "depthwise": 8, "dilated": 8, "fc": 32, "head": 12}  # input channels

channels = st.fixed_dictionaries(
    {}, optional={path: st.sets(st.integers(0, count - 1), min_size=1).map(sorted) for path, count in LAYERS.items()}
)
biases = st.sets(st.sampled_from(["stem", "bn", "depthwise", "grouped", "fc", "head"]))


def whole_numbers(net: Net, seed: int) -> tuple[Net, Tensor]:
    """The net and an input in small whole numbers: every sum of its step is then exact in float32, in whatever order it is taken."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in [*net.parameters(), net.bn.running_mean]:
            p.copy_(torch.randint(-1, 2, p.shape, generator=generator))
    net.bn.weight.data.fill_(2.0)
    net.bn.eps = 2.0**-10
    net.bn.running_var.fill_(1 - 2.0**-10)
    return net, torch.randint(-2, 3, (4, 3, 10, 10), generator=generator).float()


@settings(max_examples=25, deadline=None)
@given(channels, biases, st.booleans(), st.integers(0, 3), st.booleans())
def test_the_sliced_update_is_the_masked_one(train, bias_of, whole_group, seed, exact):
    """To the last bit where no sum rounds; to 1e-6 of the gradient where the two sum in another order."""
    if whole_group:
        train = {**train, "grouped": 1.0}
    if not train and not bias_of:
        bias_of = {"head"}
    x, y = batch(seed=seed)
    net, loss = net_of(seed), F.cross_entropy
    if exact:
        (net, x), loss = whole_numbers(net, seed), lambda logits, y: (logits * (y.unsqueeze(1) - torch.arange(5))).sum()
    sliced, model = gradients_of(net, lf.SparseUpdate(train, biases=sorted(bias_of) or "none"), x, y, loss)
    masks = {}
    for path, chosen in train.items():
        if chosen != 1.0:
            weight = net.get_submodule(path).weight
            mask = torch.zeros_like(weight)
            if path == "depthwise":  # two output channels read each input channel
                mask[[row for c in chosen for row in (2 * c, 2 * c + 1)]] = 1
            else:
                mask[:, chosen] = 1
            masks[path] = mask
    trained = frozenset([f"{p}.weight" for p in train] + [f"{p}.bias" for p in bias_of])
    reference, _ = gradients_of(net, Masked(masks, trained), x, y, loss)
    assert sliced.keys() == reference.keys() == trained
    for name, expected in reference.items():
        if exact:
            assert torch.equal(sliced[name], expected), name
        else:
            torch.testing.assert_close(sliced[name], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        if (part := model.part_of(name)) is not None:
            assert int((sliced[name] != 0).sum()) <= part.of(expected).numel()


def test_full_selection_is_backpropagation():
    x, y = batch()
    net = net_of()
    everything = [name for name, child in net.named_children() if list(child.parameters())]
    sparse, _ = gradients_of(net, lf.SparseUpdate(everything), x, y)
    full, _ = gradients_of(net, lf.Backprop(batch_norm="freeze"), x, y)
    assert sparse.keys() == full.keys()
    for name, expected in full.items():
        torch.testing.assert_close(sparse[name], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


class Deep(nn.Sequential):
    """Errors pass below convolutions and norms, activations and pooling of several kinds."""

    def __init__(self) -> None:
        norm, act = nn.GroupNorm(2, 8), nn.Sequential(nn.GELU(), nn.AvgPool2d(2))
        middle = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Flatten()
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), norm, act, *middle, nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 5))


@pytest.mark.parametrize(
    "settings_",
    [
        dict(train=5),
        dict(train=5, channels=0.5),
        dict(train="biases"),
        dict(train=5, batch_norm="train"),
        dict(train=5, error_density=0.99),
    ],
    ids=str,
)
def test_in_bf16_the_gradients_are_backpropagation_s(settings_):
    torch.manual_seed(0)
    (x, y), net = batch(count=8), Deep()
    with torch.autocast("cpu", torch.bfloat16):
        got, model = gradients_of(net, lf.SparseUpdate(**settings_), x, y)
        full, _ = gradients_of(net, lf.Backprop(batch_norm=settings_.get("batch_norm", "freeze")), x, y)
    assert "0.bias" in got
    for name, gradient in got.items():
        part = model.part_of(name)
        gradient, expected = (g if part is None else part.of(g) for g in (gradient, full[name]))
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected, rtol=0, atol=5e-3 * float(expected.abs().max()), msg=name)


def kept_bytes(model, x: Tensor) -> int:
    """Bytes that the forward pass holds on to: of the tape, and of what autograd saves inside single stages."""
    storages = {}

    def note(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = (t.untyped_storage().nbytes(), t)  # t: keeps it alive, so pointers stay unique
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        _, kept = model.tape.forward(model, x)
    for keeps, _ in kept:
        for item in keeps:
            for t in item if isinstance(item, list) else [item]:
                if isinstance(t, Tensor) and type(t) is Tensor and not t.requires_grad:
                    note(t)
    inside = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    return sum(size for pointer, (size, _) in storages.items() if pointer not in inside)


SCHEMES = [
    dict(train="head"),
    dict(train="biases"),
    dict(train={"block3.conv2": 0.25}, biases="all"),
    dict(train={"block3": 0.5, "block2": 0.5}, biases="all"),
    dict(train={"block3": 1.0, "block2": 1.0, "block1": 1.0}, biases="all"),
]


def resnet_models():
    torch.manual_seed(0)
    net, x = ResNet8().eval(), torch.rand(1, 3, 32, 32)
    return [lf.rewrite(copy.deepcopy(net), lf.SparseUpdate(**scheme), x) for scheme in SCHEMES], x


@pytest.mark.slow
def test_the_ledger_agrees_with_what_is_measured_and_rises_with_the_scheme():
    models, x = resnet_models()
    costs = []
    for model in models:
        cost = step_cost(model, (x, torch.tensor([1])), scheduled=False)
        costs.append((cost.peak_ram_bytes, cost.total_macs))
        at_error = next(i for i, (_, phase, _) in enumerate(cost.plan.moments) if phase == "error")
        alive = [b for b in cost.plan.alive(at_error) if b.born >= 0 and b.dies > at_error and b.category == "activations"]
        logits = 40
        assert kept_bytes(model, x) == pytest.approx(sum(b.bytes for b in alive) - logits, rel=0.1, abs=300)
    assert costs == sorted(costs)


def test_bias_only_costs_hardly_more_memory_than_inference():
    (head, biases, *_), x = resnet_models()
    y = torch.tensor([1])
    ram = [step_cost(m, (x, y)).peak_ram_bytes for m in (head, biases)]
    autograd = step_cost(ResNet8(), (x, y), method=lf.Backprop(batch_norm="freeze")).peak_ram_bytes
    assert ram[1] < 1.1 * ram[0] < 0.3 * autograd


def test_a_slice_needs_optimizer_state_and_masters_for_itself_alone():
    net, (x, y) = SmallConv(1, (8, 16), 4), batch((1, 8, 8), 1, 4)
    model = lf.rewrite(net, lf.SparseUpdate({"stage2.conv": 0.25}, biases="none"), x)
    step = trace_step(model, (x, y), momentum=0.9)
    assert step.node("optimizer.momentum.stage2.conv.weight").meta["val"].shape == (16, 2, 3, 3)
    results = step.run(model, x, y)
    moved = (results["stage2.conv.weight"] != net.stage2.conv.weight).any(0).any(-1).any(-1)
    assert moved.nonzero().flatten().tolist() == model.part_of("stage2.conv.weight").index.tolist()


def test_the_backward_pass_stops_at_the_deepest_trained_layer():
    x, y = batch()
    model = lf.rewrite(net_of(), lf.SparseUpdate(["fc"]), x)
    assert [stage.path for stage in model.tape.stages if stage.path] == ["fc", "head"]
    traced = trace_step(model, (x, y))
    behind = {n.meta["layer"] for n in traced.graph.nodes if n.meta["phase"] in ("backward", "update") and n.op == "call_function"}
    assert not behind & {"stem", "bn", "depthwise", "grouped", "dilated"}


class Tied(nn.Module):
    """One weight in two layers, and one layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.twice, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(self.twice(self.b(self.a(x).relu()).relu()).relu()))


@pytest.mark.parametrize("train", [["a", "b", "twice", "head"], {"b": [1, 4], "twice": [0]}, {"a": 0.5, "b": 0.5}, 4])
def test_a_weight_used_twice_gets_the_sum_of_both_gradients(train):
    torch.manual_seed(0)
    net, x, y = Tied(), torch.randn(4, 6), torch.arange(4)
    got, model = gradients_of(net, lf.SparseUpdate(train), x, y)
    F.cross_entropy(net(x), y).backward()
    named = dict(net.named_parameters())
    assert "a.weight" in got and "b.weight" not in got
    for name, gradient in got.items():
        part = model.part_of(name)
        wanted = named[name].grad if part is None else part.put(torch.zeros_like(gradient), part.of(named[name].grad))
        torch.testing.assert_close(gradient, wanted)
    assert step_cost(model, (x[:1], y[:1])).parameters_trained == sum(
        named[n].numel() if model.part_of(n) is None else model.part_of(n).of(named[n]).numel() for n in got
    )


class Reshaped(nn.Module):
    """A size, or a shape, read behind a trained convolution."""

    def __init__(self, reshape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.head, self.reshape = nn.Conv2d(3, 4, 3), nn.Linear(4 * 16, 12), nn.Linear(12, 5), reshape

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(self.reshape(self.conv(x).relu())).relu())


@pytest.mark.parametrize(
    "reshape",
    [
        lambda h: h.view(h.size(0), -1),
        lambda h: h.reshape(h.shape[0], -1),
        lambda h: h.view(h.size()[0], h.size(1) * h.size(2) * h.size(3)),
        lambda h: (h + h.new_ones(h.shape[1:]) + h.argmax(1, keepdim=True)).flatten(1),
    ],
)
@pytest.mark.parametrize("train", ["biases", 3])
def test_sizes_and_whole_numbers_behind_a_trained_layer_get_no_gradient(reshape, train):
    torch.manual_seed(0)
    net, (x, y) = Reshaped(reshape), batch((3, 6, 6))
    got, _ = gradients_of(net, lf.SparseUpdate(train=train), x, y)
    F.cross_entropy(net(x), y).backward()
    assert "conv.bias" in got and ("conv.weight" in got) == (train == 3)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, net.get_parameter(name).grad)


def test_one_weight_cannot_learn_two_amounts():
    with pytest.raises(lf.RewriteError, match="tied"):
        lf.rewrite(Tied(), lf.SparseUpdate({"a": 0.5, "b": 1.0}), torch.randn(4, 6))


# ---- ranking


def test_channels_are_ranked_by_dependency_group():
    torch.manual_seed(0)
    net = SmallConv(1, (8, 16), 4)
    with torch.no_grad():
        for module in (net.stage1.conv.weight[[2, 5]], net.stage2.conv.weight[:, [2, 5]]):
            module.mul_(1)
        net.stage1.conv.weight[[2, 5]] *= 50
        net.stage2.conv.weight[:, [2, 5]] *= 50
    x = torch.randn(2, 1, 8, 8)
    rank = rank_channels(net, x, ["stage2.conv"])["stage2.conv"]
    assert set(rank.topk(2).indices.tolist()) == {2, 5}
    model = lf.rewrite(net, lf.SparseUpdate({"stage2.conv": 0.25}), x)
    assert model.part_of("stage2.conv.weight").index.tolist() == [2, 5]


def test_random_ranking_is_a_function_of_its_seed():
    net, x = SmallConv(1, (8, 16), 4), torch.randn(2, 1, 8, 8)
    ranks = [rank_channels(net, x, ["stage2.conv"], "random", seed)["stage2.conv"] for seed in (0, 0, 1)]
    assert torch.equal(ranks[0], ranks[1]) and not torch.equal(ranks[0], ranks[2])


def test_taylor_ranking_needs_gradients():
    net, x = SmallConv(1, (8, 16), 4), torch.randn(2, 1, 8, 8)
    with pytest.raises(lf.RewriteError, match="no gradients"):
        lf.rewrite(net, lf.SparseUpdate({"stage2.conv": 0.5}, ranking="taylor"), x)
    net(x).square().sum().backward()
    assert lf.rewrite(net, lf.SparseUpdate({"stage2.conv": 0.5}, ranking="taylor"), x).part_of("stage2.conv.weight").index.numel() == 4


# ---- schemes


def test_a_scheme_file_says_what_learns(tmp_path):
    file = tmp_path / "scheme.yaml"
    write_scheme(file, {"fc": [0, 7, 9], "head": 1.0}, ["head", "bn"], {"budget": "64 KB"})
    assert read_scheme(file) == ({"fc": [0, 7, 9], "head": 1.0}, ["head", "bn"])
    x, y = batch()
    from_file, model = gradients_of(net_of(), lf.SparseUpdate(str(file)), x, y)
    assert from_file.keys() == {"fc.weight", "head.weight", "head.bias", "bn.bias"}
    assert model.part_of("fc.weight").index.tolist() == [0, 7, 9] and model.part_of("head.weight") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "train: head",
        "{train: {fc: 0.5}, trian: 1}",
        "train: {fc: [0.5]}",
        "train: {1: 0.5}",
        "{train: {fc: 0.5}, biases: [1]}",
        "{",
    ],
)
def test_bad_scheme_files_are_refused(text, tmp_path):
    (tmp_path / "scheme.yaml").write_text(text)
    with pytest.raises(lf.RewriteError):
        lf.rewrite(net_of(), lf.SparseUpdate(str(tmp_path / "scheme.yaml")), batch()[0])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (dict(train={"nowhere": 0.5}), "nowhere"),
        (dict(train="somewhere"), "somewhere"),
        (dict(train={"fc": 0.0}), "fc: 0.0"),
        (dict(train={"fc": 1.5}), "fc: 1.5"),
        (dict(train={"fc": None}), "fc: None"),
        (dict(train={"fc": "half"}), "fc: 'half'"),
        (dict(train=1.5), "train: 1.5"),
        (dict(train=True), "train: True"),
        (dict(train={}), "no parameters left"),
        (dict(train={"grouped": 0.5}), "group are read together"),
        (dict(train="head", biases=3), "biases: 3"),
        (dict(train="head", error_density=(0.9, 0.1)), "error_density"),
        (dict(train={"fc": [0, 99]}), "input channels 0 to 31"),
        (dict(train={"fc": [3, 1]}), "ascending"),
        (dict(train={"grouped": [0]}), "groups"),
        (dict(train=99), "the model has"),
        (dict(train="head", biases=["nowhere"]), "biases: nowhere"),
        (dict(train="head", ranking="best"), None),
        (dict(train="missing.yaml"), "missing.yaml"),
        (dict(train="head", channels=0.0), "channels=0.0"),
        (dict(train="head", error_density=0.0), "error_density=0.0"),
    ],
)
def test_bad_schemes_are_refused_before_anything_changes(settings_, message):
    net, (x, _) = net_of(), batch()
    if message is None:
        settings_["channels"], message = 0.5, "ranking='best'"
    before = [p.requires_grad for p in net.parameters()]
    with pytest.raises(lf.RewriteError, match=message):
        lf.rewrite(net, lf.SparseUpdate(**settings_), x)
    assert before == [p.requires_grad for p in net.parameters()] and type(net) is Net


class SeveralTensors(nn.Module):
    """A trained layer before an operation that hands out several tensors."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.head = how, nn.Linear(5, 8), nn.Linear(8, 3)
        self.inner = {"attention": nn.MultiheadAttention(8, 2, batch_first=True), "lstm": nn.LSTM(8, 4, batch_first=True)}.get(
            how, nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "chunk":
            left, right = h.chunk(2, dim=1)
            h = torch.cat([left * torch.sigmoid(right), right], 1)
        elif self.how == "split, joined":
            h = torch.relu(torch.cat(h.split(3, 1), 1))
        elif self.how == "max":
            h = h * torch.max(h, 1, keepdim=True)[0]
        elif self.how == "attention":
            h = h.unsqueeze(1).repeat(1, 3, 1)
            h = self.inner(h, h, h)[0].mean(1)
        else:
            h, (last, _) = self.inner(h.unsqueeze(1).repeat(1, 3, 1))
            h = torch.cat([h.mean(1), last[0]], 1)
        return self.head(h)


@pytest.mark.parametrize("how", ["chunk", "split, joined", "max", "attention", "lstm"])
def test_errors_pass_through_values_of_several_tensors(how):
    torch.manual_seed(0)
    net, x, y = SeveralTensors(how), torch.randn(6, 5), torch.arange(6) % 3
    expected = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    train = ["first", "head"] + (["inner"] if list(net.inner.parameters()) else [])
    one_step(lf.rewrite(net, lf.SparseUpdate(train), x), x, y)
    for (name, p), g in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6, msg=name)


class Named(nn.Module):
    """An activation under a name of torch's functions."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.relu, self.head = nn.Linear(5, 8), activation, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.first(x)))


class ActivatedNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class LowRank(nn.Linear):
    """Kept whole, as its forward asks for the mode."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0 if self.training else x) + x @ self.down.t() @ self.up.t()


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _module, _inputs, output: output.tanh())
    return layer


LOOKALIKES = {
    **{type(a).__name__: lambda a=a: Named(a) for a in (nn.LeakyReLU(0.3), nn.GELU(), nn.PReLU(), nn.ReLU())},
    "norm with activation": lambda: nn.Sequential(nn.Linear(5, 8), ActivatedNorm(8), nn.Linear(8, 3)),
    "low rank": lambda: nn.Sequential(LowRank(5, 8), nn.ReLU(), LowRank(8, 3)),
    "weight norm": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))),
    "old weight norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3)),
    "hook": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), hooked(nn.Linear(8, 3))),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", LOOKALIKES)
def test_what_only_looks_like_torch_s_layer_gets_its_own_gradient(how):
    torch.manual_seed(0)
    net, x, y = LOOKALIKES[how](), torch.randn(6, 5), torch.arange(6) % 3
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.eval()
    expected = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    train = [name for name, child in net.named_children() if list(child.parameters())]
    one_step(lf.rewrite(net, lf.SparseUpdate(train), x), x, y)
    for (name, p), g in zip(net.named_parameters(), expected, strict=True):
        assert p.grad is not None, name
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6, msg=name)


class Bare(nn.Module):
    """Layers of the functional kind, their parameters at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(8))
        self.middle, self.last = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.middle(F.linear(x, 2 * self.first, self.shift).relu()).relu(), self.last)


ENDS_IN_A_NORM = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("net", "train", "names"),
    [
        (Bare(), "head", {"last"}),
        (Bare(), 2, {"last", "middle.weight", "middle.bias"}),
        (Bare(), 3, {"last", "middle.weight", "middle.bias", "first", "shift"}),
        (Bare(), ["first", "middle.weight"], {"first", "middle.weight"}),
        (Bare(), {"last": [0, 3]}, {"last"}),
        (SeveralTensors("lstm"), "biases", {"first.bias", "inner.bias_ih_l0", "inner.bias_hh_l0", "head.bias"}),
        (SeveralTensors("attention"), "biases", {"first.bias", "inner.in_proj_bias", "inner.out_proj.bias", "head.bias"}),
        (ENDS_IN_A_NORM, "head", {"2.weight", "2.bias", "3.weight", "3.bias"}),
    ],
)
def test_what_a_selection_names(net, train, names):
    torch.manual_seed(0)
    x, y = torch.randn(6, 5), torch.arange(6) % 3
    got, model = gradients_of(net, lf.SparseUpdate(train), x, y)
    full, _ = gradients_of(net, lf.Backprop(batch_norm="freeze"), x, y)
    assert got.keys() == names
    for name, gradient in got.items():
        part = model.part_of(name)
        gradient, expected = (g if part is None else part.of(g) for g in (gradient, full[name]))
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_channels_of_a_bare_parameter_cannot_be_ranked():
    with pytest.raises(lf.RewriteError, match="rank the input channels of last"):
        lf.rewrite(Bare(), lf.SparseUpdate({"last": 0.5}), torch.randn(6, 5))


def test_channels_of_a_transposed_convolution_are_refused():
    net = nn.Sequential(nn.ConvTranspose1d(3, 5, 2), nn.Flatten(), nn.Linear(25, 3))
    with pytest.raises(lf.RewriteError, match="transposed convolution"):
        lf.rewrite(net, lf.SparseUpdate({"0": [0, 1]}), torch.randn(2, 3, 4))
