"""Forward-Forward with the label as context (a bias per channel and class in every hidden block), and with a goodness per cell of a
grid."""

import pytest
import torch
from method_table import CLASSES, clusters, one_step
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import wrong_labels


def conv():
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))
    net.input_shape = (1, 8, 8)
    return net


def rewritten(label, **settings):
    torch.manual_seed(2)
    net = conv()
    x, y = clusters(net, 8)
    return net, lf.rewrite(net, lf.ForwardForward(label=label, **settings), x[:2]), x, y


def test_each_block_s_update_is_its_closed_form():
    net, model, x, y = rewritten("context")
    one_step(model, x, y)
    with torch.no_grad():
        wrong = wrong_labels(y, CLASSES, torch.zeros((), dtype=torch.int64))
        labels, a = F.one_hot(torch.cat([y, wrong]), CLASSES).float(), torch.cat([x, x])
        for layer, context in zip((net[0], net[2]), (model.inserted.label_embedding, model.inserted.label_embedding_1), strict=True):
            h = (layer(a) + (labels @ context.weight)[..., None, None]).clamp_min(0)
            goodness = h.flatten(1).square().mean(1)
            slope = torch.cat([-torch.sigmoid(1 - goodness[:8]), torch.sigmoid(goodness[8:] - 1)]) / 8  # of softplus, theta = 1
            dz = slope.reshape(-1, 1, 1, 1) * 2 * h / h[0].numel()
            torch.testing.assert_close(
                layer.weight.grad, conv2d_weight(a, layer.weight.shape, dz, layer.stride, layer.padding), rtol=1e-4, atol=1e-6
            )
            torch.testing.assert_close(context.weight.grad, labels.t() @ dz.sum((2, 3)), rtol=1e-4, atol=1e-6)
            a = h / (h.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-8)


def test_positive_and_negative_are_one_image():
    """Without contexts they are the same to every block; with planes, the control, only the first block knows the label by itself."""
    net, model, x, y = rewritten("context")
    named = [name for name, _ in model.inserted.named_children() if name.startswith("label_embedding")]
    assert named == ["label_embedding", "label_embedding_1"]
    with torch.no_grad():
        for name in named:
            getattr(model.inserted, name).weight.zero_()
        goodness = model.method.goodness_logits(model, x)
    torch.testing.assert_close(goodness, goodness[:, :1].expand_as(goodness))
    _, planes, _, _ = rewritten("planes")
    assert not hasattr(planes.inserted, "label_embedding_1")


def test_it_starts_as_the_network_and_gives_it_back():
    net, model, x, _ = rewritten("context")
    assert torch.equal(model.eval()(x), net(x))
    assert set(dict(lf.unwrap(model).named_parameters())) == set(dict(conv().named_parameters()))


@pytest.mark.parametrize("label", ["context", "planes"])
def test_goodness_alone_comes_to_tell_the_classes(label):
    net, model, x, y = rewritten(label, prediction="goodness", threshold=1.0)
    x, y = clusters(net, 96)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        one_step(model, x, y)
        optimizer.step()
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.8


def gradients(**settings):
    net, model, x, y = rewritten("planes", **settings)
    one_step(model, x, y)
    return net, model, x, [net[i].weight.grad for i in (0, 2)]


def test_spatial_goodness_of_one_cell_is_the_mean():
    one, mean, four = (gradients(**s)[3] for s in ({"goodness": "spatial", "pool": 1}, {"goodness": "mean"}, {"goodness": "spatial"}))
    torch.testing.assert_close(one, mean)
    assert not torch.allclose(four[0], mean[0], rtol=1e-3)  # the second block ends flat: there is one cell


def test_each_cell_has_a_goodness_of_its_own():
    _, model, x, _ = gradients(goodness="spatial")
    h = torch.rand(3, 5, 8, 6)
    cells = model.inserted.heads["0"](h)
    wanted = torch.stack([h[:, :, i : i + 4, j : j + 3].square().mean((1, 2, 3)) for i in (0, 4) for j in (0, 3)], 1)
    torch.testing.assert_close(cells, wanted)
    assert model.method.goodness_logits(model, x).shape == (8, CLASSES)
