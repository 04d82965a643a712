"""Heads of the local losses: goodness, prediction, calibration."""

import pytest
import torch
from method_table import NETS, clusters, one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.methods.calibrate import calibrate
from lightning_fwd.methods.heads import ChannelGroups


def grouped():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))


@pytest.mark.parametrize("goodness", ["mean_square", "mean"])
def test_channel_groups(goodness):
    h = torch.rand(3, 8, 5, 5)
    own = h.square() if goodness == "mean_square" else h
    expected = torch.stack([own[:, 2 * c : 2 * c + 2].mean((1, 2, 3)) for c in range(4)], dim=1)
    torch.testing.assert_close(ChannelGroups(4, goodness, 3.0)(h), 3 * expected)


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(lf.RewriteError, match=r"6 channels of block .* do not divide into 4 groups"):
        lf.rewrite(NETS["conv"](), lf.LocalLoss(head="groups"), torch.rand(2, 1, 8, 8))


def test_groups_gradient_is_the_block_s_own():
    torch.manual_seed(0)
    net, x, y = grouped(), torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    model = lf.rewrite(net, lf.LocalLoss(head="groups"), x)
    one_step(model, x, y)
    h = F.relu(net[0](x))
    goodness = h.reshape(6, 4, -1).square().mean(2)
    (expected,) = torch.autograd.grad(F.cross_entropy(goodness, y), net[0].weight)
    torch.testing.assert_close(net[0].weight.grad, expected)


def test_random_heads_stay_as_drawn():
    net = NETS["mlp"]()
    x, y = clusters(net, 16)
    model = lf.rewrite(net, lf.LocalLoss(head="random"), x[:2])
    one_step(model, x, y)
    heads = [p for name, p in model.named_parameters() if ".heads." in name]
    assert heads and all(p.grad is None and not p.requires_grad for p in heads)
    assert net.fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("prediction", ["last", "sum"])
@pytest.mark.parametrize("head", ["projection", "random"])
def test_prediction_is_what_the_loss_saw(prediction, head):
    net = NETS["residual"]().eval()
    net.dropout.p = 0.0
    x, y = clusters(net, 16)
    model = lf.rewrite(net, lf.LocalLoss(prediction=prediction, head=head, batch_norm="freeze"), x[:2])
    model.train()
    with model.step(y):
        logits = model(x)
    model.backward(F.cross_entropy(logits, y))
    torch.testing.assert_close(model.eval()(x), logits)
    trained = net.head.weight.grad is not None
    assert trained == (prediction == "sum")


def test_one_block_has_no_head_to_predict_with():
    with pytest.raises(lf.RewriteError, match="needs a hidden block"):
        lf.rewrite(nn.Linear(4, 3), lf.LocalLoss(prediction="last"), torch.rand(2, 4))


@pytest.mark.parametrize(
    "method",
    [lf.LocalLoss(prediction="last"), lf.LocalLoss(prediction="sum"), lf.ForwardForward(head="layers")],
    ids=["last", "sum", "layers"],
)
def test_calibrated_heads_know_what_the_features_hold(method):
    net = NETS["conv"]()
    x, y = clusters(net, 200)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = lf.rewrite(net, method, x[:2])
    calibrate(model, zip(x.split(50), y.split(50), strict=True))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    model.eval()
    assert (model(x).argmax(1) == y).double().mean() > 0.9
    assert F.cross_entropy(model(x), y) < 0.5


def test_calibration_is_ridge_regression():
    net = NETS["mlp"]()
    x, y = clusters(net, 64)
    model = lf.rewrite(net, lf.LocalLoss(), x[:2])
    calibrate(model, [(x, y)], ridge=1e-6)
    head = model.inserted.heads["0"].linear
    with torch.no_grad():
        h = torch.cat([net.relu1(net.fc1(x)), torch.ones(64, 1)], dim=1)
    expected = torch.linalg.lstsq(h.double(), F.one_hot(y, 4).double()).solution.float()
    fitted = torch.cat([head.weight.t(), head.bias[None]])
    residual = h @ expected - F.one_hot(y, 4)
    scale = (fitted * expected).sum() / expected.square().sum()  # the temperature
    assert ((h @ fitted / scale - F.one_hot(y, 4)).norm() - residual.norm()) / residual.norm() < 0.05


def test_calibrate_says_what_it_cannot_do():
    net = NETS["mlp"]()
    x, y = clusters(net, 8)
    with pytest.raises(lf.RewriteError, match="no heads to calibrate"):
        calibrate(lf.rewrite(net, lf.Backprop(), x), [(x, y)])
    with pytest.raises(lf.StepError, match="no samples"):
        calibrate(lf.rewrite(NETS["mlp"](), lf.LocalLoss(), x), [])


@pytest.mark.parametrize("prediction", ["own", "sum"])
def test_a_block_of_several_layers_is_backpropagation_inside_and_a_wall_outside(prediction):
    torch.manual_seed(0)
    net, x, y = NETS["mlp"](), torch.randn(6, 16), torch.arange(6) % 4
    deep = nn.Sequential(net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), net.classifier)
    model = lf.rewrite(deep, lf.LocalLoss(granularity=2, prediction=prediction), x[:2])
    first, second = (set(block.layers) for block in model.block_runners)
    assert first == {"0", "2"} and second == {"4", "6"}
    one_step(model, x, y)
    weights = [deep[i].weight for i in (0, 2, 4, 6)]
    h = deep[:4](x)
    local = F.cross_entropy(model.inserted.heads["0"](h), y)
    logits = deep[4:](h.detach())
    last = F.cross_entropy(logits + model.inserted.heads["0"](h.detach()).detach() if prediction == "sum" else logits, y)
    expected = [*torch.autograd.grad(local, weights[:2]), *torch.autograd.grad(last, weights[2:])]
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


@pytest.mark.parametrize("pool", [1, 2])
def test_the_ledger_holds_the_heads(pool):
    """A pooled projection is C * n * pool**2 MAC forward, the same for its weights' gradient and again for the activation's."""
    net = grouped()  # hidden activations 8 x 6 x 6, and 64 that are flattened inside their block
    x, y = torch.rand(3, 1, 8, 8), torch.arange(3)
    costs = {}
    for head in ("projection", "random", "groups"):
        model = lf.rewrite(net, lf.LocalLoss(head=head, pool=pool), x)
        costs[head] = lf.step_cost(model, (x, y)).total_macs
        lf.unwrap(model)
    one_pass = 3 * 4 * (8 * pool**2 + 64)
    assert costs["projection"] - costs["groups"] == 3 * one_pass
    assert costs["random"] - costs["groups"] == 2 * one_pass  # what does not learn has no gradient


def test_one_class_teaches_hidden_blocks_nothing():
    with pytest.raises(lf.RewriteError, match="two classes"):
        lf.rewrite(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)), lf.LocalLoss(), torch.rand(2, 6))


def test_three_dimensional_convolutions_have_heads():
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 60, 3))
    model = lf.rewrite(net, lf.LocalLoss(), torch.rand(2, 1, 3, 4, 5))
    one_step(model, torch.rand(2, 1, 3, 4, 5), torch.tensor([0, 1]))
    assert model.inserted.heads["0"].linear.in_features == 4 * 2**3 and net[0].weight.grad.abs().sum() > 0


class Tokens(nn.Module):
    """Two linear layers over tokens ``(B, T, n)``: units last, positions between."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.classifier = nn.Linear(7, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.classifier(self.second(self.first(x).relu()).relu().mean(1))


@pytest.mark.parametrize("head", ["projection", "groups"])
def test_heads_over_tokens_see_units_and_pool_positions(head):
    torch.manual_seed(0)
    net, x, y = Tokens(), torch.randn(3, 5, 7), torch.tensor([0, 3, 1])
    model = lf.rewrite(net, lf.LocalLoss(head=head), x)
    one_step(model, x, y)
    made = net.first.weight.grad
    h = net.first(x).relu().movedim(-1, 1)  # units as channels, tokens as positions
    if head == "groups":
        goodness = h.square().reshape(3, 4, -1).mean(2)
    else:
        goodness = model.inserted.heads["0"].linear(F.adaptive_avg_pool1d(h, 2).flatten(1))
        assert model.inserted.heads["0"].linear.in_features == 12 * 2
    expected = torch.autograd.grad(F.cross_entropy(goodness, y), net.first.weight)[0]
    torch.testing.assert_close(made, expected)


def test_label_planes_and_peers_over_tokens_are_one_per_unit():
    x, method = torch.randn(3, 5, 7), lf.ForwardForward(label="planes", peer_normalisation=0.03, prediction="goodness")
    model = lf.rewrite(Tokens(), method, x)
    assert model.inserted.label_embedding.weight.shape == (4, 12) and model.inserted.get_buffer("peers.0").shape == (12,)
    one_step(model, x, torch.tensor([0, 3, 1]))
    assert method.goodness_logits(model, x).shape == (3, 4)
