"""Direct feedback alignment: its closed form, its matrices, and mirroring."""

import pytest
import torch
from method_table import CLASSES, one_step
from plain_nets import conv, mlp, setting
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import lightning_fwd as lf


def error_of_cross_entropy(net, x, y):
    return (net(x).softmax(1) - F.one_hot(y, CLASSES)) / len(y)


@torch.no_grad()
def test_every_layer_of_an_mlp_learns_from_its_own_projection_of_the_error():
    """Noekland 2016, equation 4: delta_l = (B_l e) * f'(a_l); the weight's gradient is delta_l h_{l-1}^T."""
    net, model, x, y = setting(mlp, lf.DirectFeedback())
    error = error_of_cross_entropy(net, x, y)
    with torch.enable_grad():
        one_step(model, x, y)
    h = x
    for index, layer in enumerate((net[0], net[2])):
        z = layer(h)
        matrix = model.inserted.feedback[index].matrix
        delta = (error @ matrix.t()) * (z > 0)
        torch.testing.assert_close(layer.weight.grad, delta.t() @ h, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.bias.grad, delta.sum(0), rtol=1e-4, atol=1e-6)
        h = z.relu()
    torch.testing.assert_close(net[4].weight.grad, error.t() @ h, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positions", ["shared", "own"])
@torch.no_grad()
def test_convolutions_spread_the_error_over_their_positions_or_have_rows_for_each(positions):
    net, model, x, y = setting(conv, lf.DirectFeedback(positions=positions))
    error = error_of_cross_entropy(net, x, y)
    with torch.enable_grad():
        one_step(model, x, y)
    h = x
    for index, layer in enumerate((net[0], net[2])):
        z, matrix = layer(h), model.inserted.feedback[index].matrix
        shared = positions == "shared" and index == 0  # the second block ends flat: each value is a unit
        assert len(matrix) == (z.shape[1] if shared else z[0].numel())
        delta = error @ matrix.t()
        delta = (delta / z[0, 0].numel())[:, :, None, None].expand_as(z) if shared else delta.reshape(z.shape)
        delta = delta * (z > 0)
        torch.testing.assert_close(
            layer.weight.grad, conv2d_weight(h, layer.weight.shape, delta, layer.stride, layer.padding), rtol=1e-4, atol=1e-6
        )
        h = z.relu()


def test_a_net_of_linear_layers_whose_matrices_are_its_own_weights_is_trained_by_backpropagation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, CLASSES))
    x, y = torch.randn(16, 8), torch.arange(16) % CLASSES
    model = lf.rewrite(net, lf.DirectFeedback(), x)
    with torch.no_grad():
        model.inserted.feedback[1].matrix.copy_(net[2].weight.t())
        model.inserted.feedback[0].matrix.copy_((net[2].weight @ net[1].weight).t())
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    one_step(model, x, y)
    for parameter, gradient in zip(net.parameters(), exact, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [mlp, conv])
def test_mirroring_turns_the_update_towards_backpropagation(make):
    def cosines(method):
        net, model, x, y = setting(make, method, count=32)
        exact = torch.autograd.grad(F.cross_entropy(net(x), y), [net[0].weight, net[2].weight])
        one_step(model, x, y)
        return [
            float(F.cosine_similarity(layer.weight.grad.flatten(), g.flatten(), 0))
            for layer, g in zip((net[0], net[2]), exact, strict=True)
        ]

    random, mirrored = (cosines(lf.DirectFeedback(positions="own", mirror_rounds=rounds)) for rounds in (0, 40))
    assert all(m > r + 0.2 and m > 0.4 for m, r in zip(mirrored, random, strict=True)), (random, mirrored)


def test_matrices_of_blocks_share_no_draws():
    _, model, _, _ = setting(mlp, lf.DirectFeedback())
    first, second = (f.matrix.flatten() * len(f.matrix) ** 0.5 for f in model.inserted.feedback)
    assert not set(first.tolist()) & set(second.tolist())


def test_one_block_is_refused():
    with pytest.raises(lf.RewriteError, match="hidden block"):
        lf.rewrite(nn.Sequential(nn.Linear(4, 3)), lf.DirectFeedback(), torch.randn(2, 4))
