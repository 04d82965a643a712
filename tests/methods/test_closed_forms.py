"""Each rule's update against its closed form, written out layer by layer without autograd; and what no rule may do: let a graph cross a
block.

PEPITA's closed forms are in test_pepita_closed_form.py.
"""

import copy
import weakref

import pytest
import torch
from method_table import CLASSES, clusters, one_step
from plain_nets import conv, mlp, setting
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import wrong_labels
from lightning_fwd.methods import local_gradients

kinds = pytest.mark.parametrize("make", [mlp, conv])


def linear(layer, x):
    """z of a linear or convolutional layer."""
    return F.linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer._conv_forward(x, layer.weight, layer.bias)


def update(layer, x, dz):
    """(weight, bias) of the layer's gradient for input x and error dz at its output."""
    if isinstance(layer, nn.Linear):
        return dz.t() @ x, dz.sum(0)
    return conv2d_weight(x, layer.weight.shape, dz, layer.stride, layer.padding), dz.sum((0, 2, 3))


def error_of_cross_entropy(logits, y):
    return (logits.softmax(1) - F.one_hot(y, CLASSES)) / len(y)


def hidden_layers(net):
    return [layer for layer in net if isinstance(layer, (nn.Linear, nn.Conv2d))][:-1]


def check(layer, weight, bias):
    torch.testing.assert_close(layer.weight.grad, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.bias.grad, bias, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def check_readout(net, x, y):
    """The last layer learns from the error at the logits, on what the hidden layers hand it."""
    h = net[:-1](x)
    check(net[-1], *update(net[-1], h, error_of_cross_entropy(net(x), y)))


@kinds
def test_forward_forward(make):
    net, model, x, y = setting(make, lf.ForwardForward())
    one_step(model, x, y)
    check_readout(net, x, y)
    wrong = wrong_labels(y, CLASSES, torch.zeros((), dtype=torch.int64))
    labels = F.one_hot(torch.cat([y, wrong]), CLASSES).float()
    a = torch.cat([x, x])
    with torch.no_grad():
        if make is mlp:
            a[:, :CLASSES] = labels  # overlay
        for i, layer in enumerate(hidden_layers(net)):
            z = linear(layer, a)
            if make is conv and i == 0:  # a plane per class, beside the input
                z = z + (labels @ model.inserted.label_embedding.weight)[..., None, None]
            h = z.clamp_min(0)
            goodness = h.flatten(1).square().mean(1)
            slope = torch.cat([-torch.sigmoid(1 - goodness[:8]), torch.sigmoid(goodness[8:] - 1)]) / 8  # of softplus, theta = 1
            dz = slope.reshape(-1, *[1] * (h.ndim - 1)) * 2 * h / h[0].numel()
            check(layer, *update(layer, a, dz))
            a = h / (h.square().mean(list(range(1, h.ndim)), keepdim=True).sqrt() + 1e-8)


@kinds
def test_local_loss(make):
    net, model, x, y = setting(make, lf.LocalLoss())
    one_step(model, x, y)
    check_readout(net, x, y)
    a = x
    with torch.no_grad():
        for i, layer in enumerate(hidden_layers(net)):
            head = model.inserted.heads[str(i)].linear
            z = linear(layer, a)
            h = z.clamp_min(0)
            pooled = make is conv and i == 0  # 8 x 8 positions seen as 2 x 2; the second block ends flat
            features = F.avg_pool2d(h, 4).flatten(1) if pooled else h.flatten(1)
            e = error_of_cross_entropy(linear(head, features), y)
            check(head, *update(head, features, e))
            dh = e @ head.weight
            dh = dh.reshape(8, 6, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3) / 16 if pooled else dh.reshape(h.shape)
            check(layer, *update(layer, a, dh * (z > 0)))
            a = h


@kinds
def test_backprop_is_autograd(make):
    net, model, x, y = setting(make, lf.Backprop())
    one_step(model, x, y)
    expected = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@kinds
def test_sparse_update_of_the_head(make):
    net, model, x, y = setting(make, lf.SparseUpdate("head"))
    one_step(model, x, y)
    check_readout(net, x, y)
    assert all(p.grad is None for layer in hidden_layers(net) for p in layer.parameters())


@kinds
def test_sparse_update_of_the_biases(make):
    net, model, x, y = setting(make, lf.SparseUpdate("biases"))
    one_step(model, x, y)
    with torch.no_grad():
        inputs, dh = {}, None
        a = x
        for layer in net:
            inputs[layer], a = a, layer(a)
        dh = error_of_cross_entropy(a, y)
        for layer in reversed(net):
            if isinstance(layer, nn.ReLU):
                dh = dh * (inputs[layer] > 0)
            elif isinstance(layer, nn.Flatten):
                dh = dh.reshape(inputs[layer].shape)
            else:
                assert layer.weight.grad is None
                torch.testing.assert_close(layer.bias.grad, dh.sum([d for d in range(dh.ndim) if d != 1]), rtol=1e-4, atol=1e-6)
                if isinstance(layer, nn.Linear):
                    dh = dh @ layer.weight
                else:
                    dh = F.conv_transpose2d(dh, layer.weight, None, layer.stride, layer.padding, int(layer.stride[0] > 1))


def test_statistics_are_the_mean_over_batches():
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, CLASSES))
    net.input_shape = (1, 8, 8)
    x, y = clusters(net, 16)
    before = copy.deepcopy(net.state_dict())
    model = lf.rewrite(net, lf.Statistics(), x[:2])
    for part in (slice(0, 10), slice(10, 16)):
        one_step(model, x[part], y[part])
    with torch.no_grad():
        z = [net[0](x[part]).transpose(0, 1).flatten(1) for part in (slice(0, 10), slice(10, 16))]
    torch.testing.assert_close(net[1].running_mean, (z[0].mean(1) + z[1].mean(1)) / 2)
    torch.testing.assert_close(net[1].running_var, (z[0].var(1) + z[1].var(1)) / 2)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if "running" not in k)


RULES = {
    "forward_forward": lf.ForwardForward, "forward_forward, layers": lambda: lf.ForwardForward(head="layers"), "local_loss": lf.LocalLoss,
    "direct_feedback": lf.DirectFeedback, "direct_feedback, own": lambda: lf.DirectFeedback(positions="own"),
    "local_loss, sum": lambda: lf.LocalLoss(prediction="sum"), "pepita": lf.Pepita, "pepita, recompute": lambda: lf.Pepita(recompute=True),
}  # fmt: skip


@kinds
@pytest.mark.parametrize("rule", RULES)
def test_no_hidden_update_is_autograd_s(rule, make):
    net, model, x, y = setting(make, RULES[rule]())
    assert type(model.method).forward_only
    one_step(model, x, y)
    exact = torch.autograd.grad(F.cross_entropy(net(x), y), [layer.weight for layer in hidden_layers(net)])
    for layer, gradient in zip(hidden_layers(net), exact, strict=True):
        assert layer.weight.grad.abs().sum() > 0
        assert F.cosine_similarity(layer.weight.grad.flatten(), gradient.flatten(), 0).abs() < 0.98


class SavedBytes:
    """Bytes of activations that autograd keeps at once; parameters, which are there anyway, are not counted."""

    def __init__(self, model):
        self.known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.now = self.peak = 0

    def pack(self, tensor):
        if tensor.untyped_storage().data_ptr() in self.known:
            return tensor
        kept, size = _Kept(tensor), tensor.untyped_storage().nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self._freed, size)
        return kept

    def _freed(self, size):
        self.now -= size

    @staticmethod
    def unpack(kept):
        return kept.tensor if isinstance(kept, _Kept) else kept


class _Kept:
    def __init__(self, tensor):
        self.tensor = tensor


def saved_peak(method, depth, make_layer):
    layers = [part for i in range(depth) for part in (make_layer(i), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))
    x = torch.randn(8, *((3, 6, 6) if isinstance(net[0], nn.Conv2d) else (12,)))
    net(x)
    model = lf.rewrite(net, method, x)
    saved = SavedBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        one_step(model, x, torch.arange(8) % CLASSES)
    assert saved.now == 0, "a graph outlived the step"
    return saved.peak


@pytest.mark.parametrize("make_layer", [lambda i: nn.Linear(12, 12), lambda i: nn.Conv2d(3, 3, 3, padding=1)], ids=["linear", "conv"])
@pytest.mark.parametrize("rule", [*RULES, "backprop"])
def test_saved_tensors_do_not_grow_with_depth(rule, make_layer, monkeypatch):
    monkeypatch.setattr(local_gradients, "WAIT", 0)  # a few small blocks wait for each other
    method = lf.Backprop if rule == "backprop" else RULES[rule]
    shallow, deep = (saved_peak(method(), depth, make_layer) for depth in (3, 12))
    if rule == "backprop" or "direct_feedback" in rule:  # both keep all activations until the error is known
        assert deep > 2 * shallow
    elif "layers" in rule:  # its head reads every block
        assert deep <= shallow + (12 - 3) * 8 * 12 * 4  # twelve features of 8 samples each, in fp32
    else:
        assert deep == shallow > 0
