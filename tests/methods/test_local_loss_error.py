"""What a block learns from: its own head's cross-entropy, or the network's error through a head here or some blocks later."""

import copy

import pytest
import torch
from method_table import CLASSES, clusters, one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.methods.calibrate import calibrate


def mlp():
    net = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, CLASSES))
    net.input_shape = (16,)
    return net


def normed():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, CLASSES),
    )
    net.input_shape = (1, 8, 8)
    return net


def stepped(make, **settings):
    torch.manual_seed(2)
    net = make()
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.LocalLoss(**settings), x[:2])
    one_step(model, x, y)
    return net, model, x, y


def exact(net, x, y):
    return torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))


@pytest.mark.parametrize("make", [mlp, normed])
@pytest.mark.parametrize("batch_norm", ["freeze", "train"])
def test_behind_the_last_block_the_network_s_error_is_backpropagation(make, batch_norm):
    net, model, x, y = stepped(make, error="output", lookahead=2, batch_norm=batch_norm)
    reference = copy.deepcopy(net).train(batch_norm == "train")
    for parameter, wanted in zip(net.parameters(), exact(reference, x, y), strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)
    assert not model.method.forward_only


def test_through_its_own_head_it_is_the_head_s_transpose_times_the_error():
    net, model, x, y = stepped(mlp, error="output")
    with torch.no_grad():
        e, a = (net(x).softmax(1) - F.one_hot(y, CLASSES)) / len(y), x
        for i, layer in enumerate((net[0], net[2])):
            h = layer(a).clamp_min(0)
            dz = e @ model.inserted.heads[str(i)].linear.weight * (h > 0)
            torch.testing.assert_close(layer.weight.grad, dz.t() @ a, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(layer.bias.grad, dz.sum(0), rtol=1e-4, atol=1e-6)
            a = h
        torch.testing.assert_close(net[4].weight.grad, e.t() @ a)
    assert all(not p.requires_grad for p in model.inserted.heads.parameters()) and model.method.forward_only


@pytest.mark.parametrize("settings", [{}, {"error": "output"}, {"error": "output", "lookahead": 1}])
def test_with_less_it_is_not(settings):
    """The control: the first block, whose head stands before the last block, gets another gradient than the network's."""
    net, _, x, y = stepped(mlp, **settings)
    assert not torch.allclose(net[0].weight.grad, exact(net, x, y)[0], rtol=1e-2)


def test_its_own_error_one_block_later():
    net, model, x, y = stepped(mlp, lookahead=1)
    head = model.inserted.heads["1"].linear
    hidden = net[:4](x)
    (wanted,) = torch.autograd.grad(F.cross_entropy(hidden @ head.weight.t() + head.bias, y), net[0].weight)
    torch.testing.assert_close(net[0].weight.grad, wanted)
    assert model.inserted.heads["0"].linear.weight.grad is None  # nothing is learned by it


def test_statistics_move_once_a_step():
    torch.manual_seed(2)
    net = normed()
    x, y = clusters(net, 8)
    reference = copy.deepcopy(net).train()
    reference(x)
    one_step(lf.rewrite(net, lf.LocalLoss(error="output", lookahead=1), x[:2]), x, y)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(net.get_buffer(name).float(), buffer.float())


def test_fitted_heads_stay_as_they_are_and_serve():
    torch.manual_seed(0)
    net = mlp()
    x, y = clusters(net, 96)
    model = lf.rewrite(net, lf.LocalLoss(error="output"), x[:2])
    calibrate(model, [(x, y)])
    fitted = copy.deepcopy(model.inserted.heads.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.3, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        one_step(model, x, y)
        optimizer.step()
    assert all(torch.equal(v, fitted[k]) for k, v in model.inserted.heads.state_dict().items())
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.9


def test_contradictions_are_refused():
    x = torch.randn(2, 16)
    with pytest.raises(lf.RewriteError, match="use prediction='own', or error='own'"):
        lf.rewrite(mlp(), lf.LocalLoss(error="output", prediction="sum"), x)
    with pytest.raises(lf.RewriteError, match="lookahead=-1"):
        lf.LocalLoss(lookahead=-1)
