"""What the options of Forward-Forward promise."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_table import NETS, clusters, one_step
from torch import nn

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import wrong_labels
from lightning_fwd.graph.step import StepRecord
from lightning_fwd.methods.forward_forward.goodness import PassThroughReLU, SampleNorm, SquaredGoodness, peer_loss
from lightning_fwd.methods.forward_forward.label_embedding import LabelOverlay, LabelPattern, LabelPlanes
from lightning_fwd.methods.forward_forward.negatives import blob_mask, hard_labels, hybrids
from lightning_fwd.models import SmallConv, SmallConv1d

OPTIONS = {
    "hard": {"negatives": "hard"},
    "hybrid": {"negatives": "hybrid", "head": "layers"},
    "layers": {"head": "layers", "normalise_input": True},
    "symmetric": {"loss": "symmetric", "sharpness": 4.0},
    "peers": {"peer_normalisation": 0.03, "pass_through_relu": True},
    "planes": {"label": "planes"},
    "pattern": {"label": "pattern"},
    "overlay": {"label": "overlay"},
}


@cache
def contrasting(classes, negatives):
    net = nn.Sequential(nn.Linear(14, 4), nn.ReLU(), nn.Linear(4, classes))
    return lf.rewrite(net, lf.ForwardForward(negatives=negatives), torch.rand(2, 14))


@given(st.integers(1, 12), st.sampled_from([1e-3, 1.0, 30.0, 1e38]), st.integers(0, 2**31), st.data())
@settings(max_examples=60, deadline=None)
def test_no_negative_carries_its_true_label(classes, size, seed, data):
    """Whatever the labels of the batch (one class alone, too) and however sure the model is; where there is one class, the rule is
    refused."""
    target = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=40)))
    if classes == 1:
        for negatives in ("wrong", "hard"):
            with pytest.raises(lf.RewriteError, match="needs two classes"):
                contrasting(1, negatives)
        return
    logits = size * torch.randn(len(target), classes, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)
    for negative in (wrong_labels(target, classes, seed), hard_labels(target, logits, torch.tensor(seed))):
        assert not (negative == target).any() and negative.min() >= 0 and negative.max() < classes
    for negatives in ("wrong", "hard"):  # and as the blocks get them: rows of the label's one-hot code
        model, record = contrasting(classes, negatives), StepRecord(torch.rand(len(target), 14), target, 1.0, torch.tensor(seed))
        _, label = model.method._contrasted(model, record, logits)
        true, wrong = label[: len(target)], label[len(target) :]
        assert torch.equal(true.argmax(1), target) and (wrong.sum(1) == 1).all() and not (true * wrong).any()


def test_hard_negatives_follow_the_prediction():
    target, logits = torch.zeros(4000, dtype=torch.int64), torch.tensor([9.0, 1.0, 0.0]).expand(4000, 3)
    share = (hard_labels(target, logits, torch.tensor(5)) == 1).double().mean()
    assert abs(share - torch.e / (torch.e + 1)) < 0.03  # the true class is out, the rest keeps its odds


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("option", OPTIONS)
def test_trains_every_hidden_layer_and_predicts(option, kind):
    net = NETS[kind]()
    x, y = clusters(net, 24)
    model = lf.rewrite(net, lf.ForwardForward(**OPTIONS[option]), x[:2])
    one_step(model, x, y)
    last = {p for node in model.plan[-1].layers for p in (f"{node}.weight", f"{node}.bias")}
    for name, p in model.named_parameters():
        if p.requires_grad and name not in last:
            assert p.grad is not None and p.grad.isfinite().all(), name
    assert model.eval()(x).shape == (24, 4)


def test_greedy_trains_one_block_after_the_other():
    net = NETS["mlp"]()
    x, y = clusters(net, 16)
    model = lf.rewrite(net, lf.ForwardForward(greedy_steps=2), x[:2])
    trained = []
    for _ in range(5):
        model.zero_grad(set_to_none=True)
        one_step(model, x, y)
        trained.append((net.fc1.weight.grad is not None, net.fc2.weight.grad is not None))
    assert trained == [(True, False)] * 2 + [(False, True)] * 3


def test_goodness_prediction_equals_one_pass_per_label():
    net = NETS["conv"]()
    x, y = clusters(net, 8)
    for label in ("overlay", "planes", "pattern"):
        model = lf.rewrite(net, lf.ForwardForward(label=label, prediction="goodness"), x[:2])
        one_step(model, x, y)
        model.eval()
        with torch.no_grad():
            for c in range(4):
                h, _ = model.block_runners[0](model, x, torch.eye(4)[[c] * 8])
                _, goodness = model.block_runners[1](model, h)
                torch.testing.assert_close(model(x)[:, c], goodness)
        lf.unwrap(model)


def test_planes_are_further_input_channels():
    torch.manual_seed(0)
    conv, wide, planes = nn.Conv2d(2, 5, 1), nn.Conv2d(5, 5, 1), LabelPlanes(5, 3, 1.0, 0)
    with torch.no_grad():
        wide.weight[:, :2], wide.weight[:, 2:, 0, 0], wide.bias[:] = conv.weight, planes.weight.t(), conv.bias
        x, label = torch.rand(4, 2, 6, 6), torch.eye(3)[[0, 1, 2, 0, 2, 2, 1, 1]]
        together = torch.cat([x.repeat(2, 1, 1, 1), label[:, :, None, None].expand(8, 3, 6, 6)], dim=1)
        torch.testing.assert_close(planes(conv(x), label), wide(together))
        torch.testing.assert_close(planes(conv(x), torch.full((4, 3), 1 / 3)), conv(x))  # the neutral label


@pytest.mark.parametrize("shape", [(3, 9, 7), (6, 64), (30,)])
def test_patterns_are_orthogonal(shape):
    patterns = LabelPattern(shape, 5, 2.0).patterns
    torch.testing.assert_close(patterns @ patterns.t() / patterns.shape[1], 4.0 * torch.eye(5), atol=1e-4, rtol=1e-4)
    assert LabelPattern(shape, 5, 2.0)(torch.zeros(2, *shape), torch.eye(5)[[0, 1, 2, 3]]).shape == (4, *shape)


def test_overlay_writes_over_the_first_values_only():
    x = torch.rand(2, 1, 4, 4)
    y = LabelOverlay((1, 4, 4), 3, 2.0)(x, torch.eye(3)[[1, 2]]).flatten(1)
    assert torch.equal(y[:, :3], 2 * torch.eye(3)[[1, 2]]) and torch.equal(y[:, 3:], x.flatten(1)[:, 3:])


@pytest.mark.parametrize("label", ["overlay", "pattern"])
def test_no_room_for_the_label_is_refused_and_auto_finds_some(label):
    net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)), torch.rand(4, 3)
    with pytest.raises(lf.RewriteError, match="planes"):
        lf.rewrite(net, lf.ForwardForward(label=label), x)
    model = lf.rewrite(net, lf.ForwardForward(), x)
    one_step(model, x, torch.tensor([0, 1, 4, 2]))
    assert net[0].weight.grad.abs().sum() > 0


def test_hybrids_take_every_value_from_one_of_two_samples():
    x = torch.rand(6, 2, 10, 10)
    mask, mixed = blob_mask(x, torch.tensor(3)), hybrids(x, torch.tensor(3))
    assert mask.shape == (6, 1, 10, 10) and 0.2 < mask.mean() < 0.8
    torch.testing.assert_close(mixed, torch.where(mask.bool(), x, x.roll(1, 0)))
    flips = (mask[..., 1:] != mask[..., :-1]).double().mean()
    assert flips < 0.3  # blobs, not noise


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 4, 4), (8, 2, 2), (6, 2), (6, 1, 3), (12,), (2,)], ids=str)
def test_no_hybrid_is_one_of_its_two_samples(shape):
    """Of 8 x 8 digits one in six had been, of smaller inputs nearly all."""
    share = blob_mask(torch.zeros(300, *shape), torch.tensor(3)).flatten(1).mean(1)
    assert share.min() > 0 and share.max() < 1 and 0.4 < share.mean() < 0.6


def test_one_position_cannot_be_mixed():
    net = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    with pytest.raises(lf.RewriteError, match="one position"):
        lf.rewrite(net, lf.ForwardForward(negatives="hybrid"), torch.rand(2, 6, 1, 1))


def test_hybrids_need_no_labels():
    net = NETS["mlp"]()
    x, y = clusters(net, 16)
    model = lf.rewrite(net, lf.ForwardForward(negatives="hybrid"), x[:2])
    model.train()
    with model.step():
        loss = model(x).square().mean()
    model.backward(loss)
    assert net.fc1.weight.grad.abs().sum() > 0
    with pytest.raises(lf.RewriteError, match="cannot predict"):
        lf.rewrite(NETS["mlp"](), lf.ForwardForward(negatives="hybrid", prediction="goodness"), x[:2])


def test_pass_through_relu():
    z = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    h = PassThroughReLU()(z)
    h.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert h.tolist() == [0, 0, 2] and z.grad.tolist() == [1, 2, 3]


def test_peer_normalisation():
    h = torch.rand(4, 3, 2, 2, requires_grad=True)
    loss, mean = peer_loss(h, torch.tensor([1.0, 0.0, 0.0]))
    expected = 0.9 * torch.tensor([1.0, 0.0, 0.0]) + 0.1 * h.mean((0, 2, 3))
    torch.testing.assert_close(mean, expected.detach())
    torch.testing.assert_close(loss, expected.var(correction=0))
    net = NETS["conv"]()
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.ForwardForward(peer_normalisation=0.03), x[:2])
    one_step(model, x, y)
    assert all(peer.abs().sum() > 0 for peer in model.inserted.peers.buffers())


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4), (6, 16)])
def test_normalisation_and_goodness_are_per_sample(shape):
    h = torch.randn(4, *shape) * torch.tensor([0.1, 1.0, 10.0, 0.0]).reshape(4, *[1] * len(shape))
    normed = SampleNorm()(h)
    torch.testing.assert_close(normed[:3].flatten(1).square().mean(1), torch.ones(3))
    torch.testing.assert_close(normed[:3].flatten(1), nn.functional.normalize(h[:3].flatten(1)) * h[0].numel() ** 0.5)
    assert not normed[3].any()  # silence stays silence
    assert torch.equal(SampleNorm()(h[1:2]), normed[1:2])  # no sample sees another
    for reduction, scale in (("sum", 1), ("mean", h[0].numel())):
        torch.testing.assert_close(SquaredGoodness(reduction)(h) * scale, torch.tensor([sample.square().sum() for sample in h]))


def test_no_length_leaks_into_the_next_block():
    """With an input twice as long the second block sees, and says, the same (no biases)."""
    net = nn.Sequential(nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 8, bias=False), nn.ReLU(), nn.Linear(8, 4))
    model = lf.rewrite(net, lf.ForwardForward(negatives="hybrid"), torch.rand(2, 16))
    x, second = torch.rand(5, 16), []
    for scaled in (x, 2 * x):
        h, _ = model.block_runners[0](model, scaled)
        second.append(model.block_runners[1](model, h)[1])
    torch.testing.assert_close(second[0], second[1])


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: SmallConv1d(6, (8, 8), 5), (6, 64)),  # inertial windows
        (lambda: SmallConv(1, (6, 8), 12), (1, 49, 10)),  # a spectrogram: MFCC
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(384, 20), nn.ReLU(), nn.Linear(20, 5)), (6, 64)),
        (lambda: nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)), (2,)),
    ],
    ids=["imu", "mfcc", "imu, fully connected", "two values"],
)
@pytest.mark.parametrize("prediction", ["head", "goodness"])
def test_inputs_without_room_for_a_label(net, shape, prediction):
    net, x = net(), torch.randn(6, *shape)
    model = lf.rewrite(net, lf.ForwardForward(prediction=prediction, head="layers"), x[:2])
    assert model.num_classes >= 3
    if shape == (2,) or len(shape) > 1 and not isinstance(net, nn.Sequential):
        assert isinstance(model.inserted.label_embedding, LabelPlanes)
    one_step(model, x, torch.arange(6) % 3)
    for block in model.block_runners[:-1]:  # the label has arrived in every block, and no gradient stops short of it
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in block.parameters(model).values()), block.name
    with torch.no_grad():
        goodness = model.method.goodness_logits(model, x)
    assert goodness.shape == (6, model.num_classes) and (goodness.max(1).values > goodness.min(1).values).all()
    assert model.eval()(x).shape == (6, model.num_classes)


NORMS = {
    "instance": lambda: nn.InstanceNorm2d(6, affine=True),
    "group of one": lambda: nn.GroupNorm(6, 6),
    "group": lambda: nn.GroupNorm(2, 6),
    "layer": lambda: nn.GroupNorm(1, 6),
    "batch": lambda: nn.BatchNorm2d(6),
}


class Functional(nn.Module):
    def forward(self, x):
        return nn.functional.instance_norm(x)


@pytest.mark.parametrize("norm", NORMS)
def test_the_label_is_not_normalised_away(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), NORMS[norm](), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    model = lf.rewrite(net, lf.ForwardForward(), x)
    with torch.no_grad():
        positive, negative = model.block_runners[0](model.eval(), x, torch.eye(3)[torch.cat([y, (y + 1) % 3])])[0].chunk(2)
    assert ((positive - negative).abs().amax(1) > 0.01 * positive.abs().max()).all()
    one_step(model, x, y)
    assert net[0].weight.grad.any()


def test_a_label_that_is_normalised_away_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 6, 3), Functional(), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    with pytest.raises(lf.RewriteError, match="does not reach"):
        lf.rewrite(net, lf.ForwardForward(), torch.rand(2, 1, 8, 8))
    lf.rewrite(net, lf.ForwardForward(label="pattern"), torch.rand(2, 1, 8, 8))


def test_a_label_below_the_rounding_of_half_precision_is_not_called_normalised_away():
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)).bfloat16()
    nn.init.constant_(net[0].bias, 9.0)
    lf.rewrite(net, lf.ForwardForward(label="pattern", label_scale=0.02), torch.rand(2, 1, 8, 8).bfloat16())


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(8, 5)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(nn.functional.linear(x, self.weight)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


FIRST = {
    "a bare parameter": (Bare, (5,), LabelOverlay),
    "recurrent": (Recurrent, (4, 5), LabelOverlay),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3)),
        (5,),
        LabelOverlay,
    ),
    "tokens": (lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)), (4, 5), LabelPlanes),
}


@pytest.mark.parametrize("kind", FIRST)
def test_auto_finds_the_place_for_the_label(kind):
    torch.manual_seed(0)
    make, shape, embedding = FIRST[kind]
    net, x, y = make(), torch.rand(6, *shape), torch.arange(6) % 3
    model = lf.rewrite(net, lf.ForwardForward(), x)
    assert isinstance(model.inserted.label_embedding, embedding)
    one_step(model, x, y)
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_planes_need_one_tensor():
    with pytest.raises(lf.RewriteError, match="several tensors"):
        lf.rewrite(Recurrent(), lf.ForwardForward(label="planes"), torch.rand(2, 4, 5))


@pytest.mark.parametrize("end", [[nn.GELU()], [nn.ReLU(), nn.BatchNorm1d(8)]], ids=["gelu", "relu before a norm"])
def test_passing_through_a_relu_needs_one_at_the_end_of_the_block(end):
    net = nn.Sequential(nn.Linear(5, 8), *end, nn.Linear(8, 3))
    with pytest.raises(lf.RewriteError, match="finds no ReLU"):
        lf.rewrite(net, lf.ForwardForward(pass_through_relu=True), torch.rand(2, 5))


def test_a_pattern_takes_samples_of_one_size():
    model = lf.rewrite(NETS["conv"](), lf.ForwardForward(label="pattern"), torch.rand(2, 1, 8, 8))
    with pytest.raises(lf.StepError, match=r"shape \(1, 9, 9\)"):
        one_step(model, torch.rand(2, 1, 9, 9), torch.tensor([0, 1]))


def test_a_hybrid_of_one_sample_is_refused():
    """It would equal the positive. Two samples do; a wrong label needs one."""
    net = nn.Sequential(nn.Linear(14, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.rand(2, 14), torch.tensor([0, 1])
    model = lf.rewrite(net, lf.ForwardForward(negatives="hybrid"), x)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(lf.StepError, match="batch of one sample"):
        one_step(model, x[:1], y[:1])
    assert not model.pending and all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    one_step(model, x, y)
    lf.unwrap(model)
    one_step(lf.rewrite(net, lf.ForwardForward(), x), x[:1], y[:1])


@pytest.mark.parametrize("head", ["own", "layers"])
@pytest.mark.parametrize("prediction", ["head", "goodness"])
def test_running_statistics_are_updated_once_by_the_pass_that_predicts(head, prediction):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 3))
    net, x, y = net.train(), torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    model = lf.rewrite(net, lf.ForwardForward(label="pattern", head=head, prediction=prediction, batch_norm="train"), x)
    one_step(model, x, y)
    with torch.no_grad():
        record = StepRecord(x, y, 1.0, torch.tensor(0))
        if prediction == "goodness":
            x = model.inserted.label_embedding(*model.method._contrasted(model, record, torch.zeros(6, 3)))
        elif head == "layers":  # the label neutral
            x = model.inserted.label_embedding(x, torch.full((6, 3), 1 / 3))
        mean = net[0](x).mean((0, 2, 3))
    assert net[1].num_batches_tracked == 1 and net[1].track_running_stats
    torch.testing.assert_close(net[1].running_mean, 0.1 * mean)


def test_hard_negatives_in_bfloat16_draw_no_class_that_the_model_rules_out():
    """Noise in bfloat16 would be infinite for one class in 500."""
    target, logits = torch.zeros(4000, dtype=torch.int64), torch.tensor([9.0, -30.0, 8.0]).expand(4000, 3).bfloat16()
    assert (hard_labels(target, logits, torch.tensor(5)) == 2).all()


@pytest.mark.parametrize(("options", "words"), [({"greedy_steps": 0}, "greedy_steps=0"), ({"head": "layers", "pool": 0}, "pool=0")])
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(lf.RewriteError, match=words):
        lf.rewrite(NETS["conv"](), lf.ForwardForward(**options), torch.rand(2, 1, 8, 8))
