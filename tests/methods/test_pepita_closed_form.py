"""PEPITA's updates against their closed forms, written out without autograd."""

import pytest
import torch
from method_table import one_step
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph.counter_random import uniform
from lightning_fwd.methods.mirroring import mirrored, turned

CLASSES = 3


def outer(layer: nn.Module, delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``delta (x) input``, summed over samples and positions, in the shape of the layer's weight."""
    if isinstance(layer, nn.Linear):
        return delta.t() @ x
    if isinstance(layer, nn.Conv1d):  # as a convolution of height 1
        x, delta, dims = x.unsqueeze(2), delta.unsqueeze(2), [(1, *v) for v in (layer.kernel_size, layer.stride)]
        padding = (0, *layer.padding)
    else:
        dims, padding = [layer.kernel_size, layer.stride], layer.padding
    patches = F.unfold(x, dims[0], padding=padding, stride=dims[1])  # (B, C_in kh kw, P)
    batch, groups = x.shape[0], layer.groups
    patches = patches.reshape(batch, groups, -1, patches.shape[-1])
    delta = delta.reshape(batch, groups, layer.out_channels // groups, -1)
    return torch.einsum("bgop,bgip->goi", delta, patches).reshape(layer.weight.shape)


def bias_of(delta: torch.Tensor) -> torch.Tensor:
    return delta.sum([d for d in range(delta.ndim) if d != 1])


def near(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Up to rounding, which the Hebbian difference of two large terms magnifies."""
    return bool((got - expected).norm() <= 1e-3 * expected.norm())


class Chain(nn.Sequential):
    """``stages`` of (layer, tail) and a linear head, so that a test can run it layer by layer."""

    def __init__(self, shape, *stages):
        modules = [m for stage in stages for m in stage]
        x = nn.Sequential(*modules)(torch.zeros(1, *shape))
        super().__init__(*modules, nn.Linear(x.shape[1], CLASSES))
        self.shape, self.stages = shape, stages

    def passes(self, x):
        """For each layer but the head: (layer, its input, its activation h of the layer's own shape), then the head's input."""
        rows = []
        for layer, *tail in self.stages:
            inside, z = x, layer(x)
            x = h = z
            for module in tail:
                x = module(x)
                h = x if x.shape == z.shape else h
            rows.append((layer, inside, h))
        return rows, x


def pool():
    return (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETS = {
    "mlp": lambda: Chain((7,), (nn.Linear(7, 9), nn.ReLU()), (nn.Linear(9, 5), nn.Tanh())),
    "no bias": lambda: Chain((7,), (nn.Linear(7, 9, bias=False), nn.ReLU())),
    "conv": lambda: Chain((2, 7, 7), (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), (nn.Conv2d(4, 6, 2), *pool())),
    "strided": lambda: Chain((2, 7, 7), (nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU()), (nn.Conv2d(4, 6, 3, 2), *pool())),
    "grouped": lambda: Chain((4, 6, 6), (nn.Conv2d(4, 8, 3, groups=2), nn.ReLU()), (nn.Conv2d(8, 8, 3, groups=8), *pool())),
    "conv1d": lambda: Chain((3, 12), (nn.Conv1d(3, 4, 5, 2, 2), nn.ReLU()), (nn.Conv1d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten())),
}  # fmt: skip


def step(net, method, batch=5):
    x, y = torch.rand(batch, *net.shape), torch.arange(batch) % CLASSES
    model = lf.rewrite(net, method, x[:2])
    one_step(model, x, y)
    with torch.no_grad():
        rows, into_head = net.passes(x)
        logits = net[-1](into_head)
        error = logits.softmax(1) - F.one_hot(y, CLASSES)
        matrix = model.inserted.feedback.matrix
        rows_err, into_head_err = net.passes(x + (error @ matrix.t()).reshape(x.shape))
    return rows, rows_err, error, into_head_err


def factor(scale, delta, error):
    positions = delta[0, 0].numel()
    if scale == "activity":
        return error.norm() / delta.norm() / positions**0.5
    return {"positions": 1 / positions, "root": positions**-0.5, "none": 1.0}[scale]


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("variant", ["standard", "hebbian", "time_local"])
@pytest.mark.parametrize("scale", ["positions", "root", "none", "activity"])
def test_update_is_the_closed_form(kind, variant, scale):
    if variant == "time_local" and scale == "activity":
        pytest.skip("refused, see test_pepita.py")
    net, batch = NETS[kind](), 5
    rows, rows_err, error, into_head_err = step(net, lf.Pepita(variant=variant, update_scale=scale, feedback_scale=1.0), batch)
    for (layer, x, h), (_, x_err, h_err) in zip(rows, rows_err, strict=True):
        size = factor(scale, h - h_err, error) / batch
        if variant == "standard":
            expected = outer(layer, h - h_err, x_err)
        else:
            expected = outer(layer, h, x) - outer(layer, h_err, x_err)
        assert expected.norm() > 0
        assert near(layer.weight.grad, expected * size)
        if layer.bias is not None:
            assert near(layer.bias.grad, bias_of(h - h_err) * size)
    torch.testing.assert_close(net[-1].weight.grad, outer(net[-1], error, into_head_err) / batch, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net[-1].bias.grad, error.mean(0), rtol=1e-4, atol=1e-6)


def test_output_layer_may_learn_from_the_error_of_the_second_pass():
    net = NETS["mlp"]()
    rows, rows_err, error, into_head_err = step(net, lf.Pepita(output_error="modulated", feedback_scale=1.0))
    with torch.no_grad():
        y = F.one_hot(torch.arange(5) % CLASSES, CLASSES)
        error_err = net[-1](into_head_err).softmax(1) - y
    assert not torch.allclose(error, error_err, atol=1e-3)
    torch.testing.assert_close(net[-1].weight.grad, outer(net[-1], error_err, into_head_err) / 5, rtol=1e-4, atol=1e-6)


def test_stored_batch_norm_scales_its_layer_s_update_and_folding_it_says_the_same():
    """A norm behind the layer: its VJP is a factor per channel; folded, the layer's own weight takes the whole map."""

    def net():
        torch.manual_seed(1)
        chain = Chain((2, 6, 6), (nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        norm = chain[1]
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), nn.init.uniform_(norm.weight, 0.5, 2)
        return chain

    x, y = torch.rand(5, 2, 6, 6), torch.arange(5) % CLASSES
    frozen, folded = net(), net()
    one_step(lf.rewrite(frozen, lf.Pepita(), x[:2]), x, y)
    one_step(lf.rewrite(folded, lf.Pepita(batch_norm="fold"), x[:2]), x, y)
    scale = (frozen[1].weight / (frozen[1].running_var + frozen[1].eps).sqrt()).detach().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(frozen[0].weight.grad, folded[0].weight.grad * scale, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(frozen[1].bias.grad, folded[1].bias.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_no_hidden_update_is_backpropagation_s(kind):
    net = NETS[kind]()
    x, y = torch.rand(5, *net.shape), torch.arange(5) % CLASSES
    model = lf.rewrite(net, lf.Pepita(), x)
    one_step(model, x, y)
    lf.unwrap(model)
    backprop = torch.autograd.grad(F.cross_entropy(net(x), y), [layer.weight for layer, *_ in net.stages])
    for theirs, (layer, *_) in zip(backprop, net.stages, strict=True):
        assert F.cosine_similarity(layer.weight.grad.flatten(), theirs.flatten(), 0) < 0.95


class Functional(nn.Module):
    """The strided net of NETS as functional calls on the same weights."""

    def __init__(self, chain):
        super().__init__()
        (self.first, _), (self.second, *_) = chain.stages
        self.head, self.shape = chain[-1], chain.shape

    def forward(self, x):
        x = torch.relu(F.conv2d(x, self.first.weight, self.first.bias, 2, 1))
        x = torch.relu(F.conv2d(x, self.second.weight, self.second.bias, 2))
        return F.linear(x.mean((2, 3)), self.head.weight, self.head.bias)


@pytest.mark.parametrize("scale", ["positions", "root", "activity"])
def test_functional_convolutions_learn_as_their_modules_do(scale):
    chain, method = NETS["strided"](), lf.Pepita(update_scale=scale)
    x, y = torch.rand(5, *chain.shape), torch.arange(5) % CLASSES
    grads = []
    for net in (chain, Functional(chain)):
        model = lf.rewrite(net, method, x[:2])
        one_step(model, x, y)
        lf.unwrap(model)
        grads.append([p.grad for p in net.parameters()])
        net.zero_grad(set_to_none=True)
    for module, functional in zip(*grads, strict=True):
        torch.testing.assert_close(functional, module, rtol=1e-4, atol=1e-7)


LAYERS = {
    "tokens": (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), (5, 4), [5]),
    "convolution and layer norm": (nn.Sequential(nn.Conv2d(2, 5, 3), nn.LayerNorm([5, 4, 3])), (2, 6, 5), [12]),
    "layer norm first": (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), (5, 4), [5, 5]),
    "batch norm first": (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3)), (2, 6, 5), [30, 12]),
    "transposed": (nn.ConvTranspose2d(2, 5, 3), (2, 4, 3), [30]),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_positions_are_the_outputs_that_share_a_weight(kind):
    layers, shape, positions = LAYERS[kind]
    x = torch.rand(2, *shape)
    net = nn.Sequential(layers, nn.Flatten(), nn.Linear(layers(x).flatten(1).shape[1], CLASSES))
    assert [unit.positions for unit in lf.rewrite(net, lf.Pepita(), x).inserted.units] == [*positions, 1]


class ResidualMLP(nn.Module):
    """``h1 = relu(stem x)``, ``h3 = relu(second relu(first h1) + h1)``, ``head h3``."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def values(self, x):
        h1 = torch.relu(self.stem(x))
        h2 = torch.relu(self.first(h1))
        z3 = self.second(h2)
        return h1, h2, z3, torch.relu(z3 + h1)

    def forward(self, x):
        return self.head(self.values(x)[-1])


def both_passes(net, method, x, y):
    """e, and the net's values in the two passes of one step."""
    model = lf.rewrite(net, method, x)
    one_step(model, x, y)
    with torch.no_grad():
        error = net(x).softmax(1) - F.one_hot(y, CLASSES)
        return error, net.values(x), net.values(model.inserted.feedback(x, error))


@pytest.mark.parametrize("residual", ["sum", "own"])
def test_a_layer_inside_a_residual_block_compares_the_sum_or_its_own_output(residual):
    torch.manual_seed(0)
    net, x, y = ResidualMLP(), torch.rand(7, 6), torch.arange(7) % CLASSES
    error, (_, h2, z3, h3), (g1, g2, w3, g3) = both_passes(net, lf.Pepita(residual=residual, feedback_scale=1.0), x, y)
    delta = h3 - g3 if residual == "sum" else z3 - w3
    assert near(net.second.weight.grad, delta.t() @ g2 / 7)
    assert near(net.first.weight.grad, (h2 - g2).t() @ g1 / 7)
    assert near(net.head.weight.grad, error.t() @ g3 / 7)


class Beside(nn.Module):
    """A first layer whose output enters something that keeps its shape and is not its activation."""

    def __init__(self, beside):
        super().__init__()
        self.first, self.head, self.beside = nn.Linear(6, 6, bias=False), nn.Linear(36, CLASSES), beside

    def forward(self, x):
        return self.head(self.beside(torch.sigmoid(self.first(x)), x).flatten(1))


BESIDE = {
    "transposition": lambda h, x: h.transpose(1, 2),
    "difference": lambda h, x: x - h,
    "distance from a constant": lambda h, x: 1 - h,
    "product": lambda h, x: x * h,
    "maximum": lambda h, x: torch.maximum(x, h),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_what_keeps_the_shape_of_an_activation_is_not_the_activation(beside):
    torch.manual_seed(0)
    net, x, y = Beside(BESIDE[beside]), torch.rand(7, 6, 6), torch.arange(7) % CLASSES
    model = lf.rewrite(net, lf.Pepita(feedback_scale=1.0, update_scale="none"), x)
    one_step(model, x, y)
    with torch.no_grad():
        error = net(x).softmax(1) - F.one_hot(y, CLASSES)
        x_err = model.inserted.feedback(x, error)
        difference = torch.sigmoid(net.first(x)) - torch.sigmoid(net.first(x_err))
    assert near(net.first.weight.grad, torch.einsum("bto,bti->oi", difference, x_err) / 7)


def standardised(h):
    return (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


class Normalised(nn.Module):
    """What ``normalise=True`` makes of two hidden layers: each sample standardised on its way into the next layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 9), nn.Linear(9, 8), nn.Linear(8, CLASSES)

    def values(self, x):
        first = standardised(torch.relu(self.first(x)))
        return first, standardised(torch.relu(self.second(first)))

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def test_normalised_activity_is_what_a_layer_compares_and_what_enters_the_next():
    torch.manual_seed(0)
    net, x, y = Normalised(), torch.rand(7, 6), torch.arange(7) % CLASSES
    model = lf.rewrite(net, lf.Pepita(normalise=True, feedback_scale=1.0), x)
    one_step(model, x, y)
    with torch.no_grad():
        n1, n2 = net.values(x)
        error = net.head(n2).softmax(1) - F.one_hot(y, CLASSES)
        m1, m2 = net.values(x_err := model.inserted.feedback(x, error))
    assert near(net.first.weight.grad, (n1 - m1).t() @ x_err / 7)
    assert near(net.second.weight.grad, (n2 - m2).t() @ m1 / 7)
    assert near(net.head.weight.grad, error.t() @ m2 / 7)


def test_dropped_units_are_those_of_the_step_in_both_passes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Dropout(0.4), nn.Linear(30, CLASSES))
    x, y = torch.rand(7, 6), torch.arange(7) % CLASSES
    model = lf.rewrite(net, lf.Pepita(feedback_scale=1.0), x)
    one_step(model, x, y)
    model.inserted.counter.zero_()
    mask = model.inserted.shared_dropout0(torch.ones(7, 30))
    assert 0 < (mask == 0).float().mean() < 1
    with torch.no_grad():
        h = torch.relu(net[0](x)) * mask
        error = net[3](h).softmax(1) - F.one_hot(y, CLASSES)
        g = torch.relu(net[0](x_err := model.inserted.feedback(x, error))) * mask
    assert near(net[0].weight.grad, (h - g).t() @ x_err / 7)
    assert near(net[3].weight.grad, error.t() @ g / 7)


def test_mirroring_of_a_linear_net_is_the_noise_s_covariance_times_its_weights():
    """``xi^T (f(x - s xi) - f(x + s xi)) = -2 s xi^T xi (W2 W1)^T``; turned, F keeps its norm and holds ``share`` of it."""
    net, x, strength = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, CLASSES)), torch.rand(5, 6), 0.25
    model = lf.rewrite(net, lf.Pepita(mirror_rounds=1), x)
    noise = uniform(11, x.shape) * 3**0.5
    product = (net[1].weight @ net[0].weight).detach()
    towards = -mirrored(model.run, x, 11, strength)  # as PEPITA takes it
    torch.testing.assert_close(towards, -2 * strength * noise.t() @ noise @ product.t(), rtol=1e-4, atol=1e-5)
    matrix = model.inserted.feedback.matrix
    half = turned(matrix, towards, 0.5)
    expected = matrix / matrix.norm() + towards / towards.norm()
    torch.testing.assert_close(half, expected / expected.norm() * matrix.norm())


def test_a_head_that_starts_at_zero_leaves_the_feedback_as_drawn():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, CLASSES)), torch.rand(5, 6), torch.arange(5) % CLASSES
    nn.init.zeros_(net[2].weight)
    model = lf.rewrite(net, lf.Pepita(mirror_rounds=2), x)
    matrix = model.inserted.feedback.matrix.clone()
    one_step(model, x, y)
    assert torch.equal(model.inserted.feedback.matrix, matrix) and all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("scale", ["root", "activity"])
def test_a_loss_summed_over_the_batch_needs_to_be_told(scale):
    """Then the modulation is that of a mean and every gradient B times the mean's; untold, F projects an error B times as large."""
    net, batch, grads, inputs = NETS["conv"](), 4, [], []
    x, y = torch.rand(batch, *net.shape), torch.arange(batch) % CLASSES
    for reduction, loss_scale in (("mean", 1.0), ("sum", float(batch)), ("sum", 1.0)):
        model = lf.rewrite(net, lf.Pepita(update_scale=scale, feedback_scale=1.0), x).train()
        model.inserted.feedback.register_forward_hook(lambda _module, _args, x_err: inputs.append(x_err))
        with model.step(y, loss_scale):
            loss = F.cross_entropy(model(x), y, reduction=reduction)
        model.backward(loss)
        lf.unwrap(model)
        grads.append([p.grad for p in net.parameters()])
        net.zero_grad(set_to_none=True)
    torch.testing.assert_close(inputs[0], inputs[1])
    torch.testing.assert_close(inputs[2] - x, batch * (inputs[0] - x))
    assert all(near(total, batch * mean) for mean, total in zip(*grads[:2], strict=True))
