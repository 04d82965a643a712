"""PEPITA's settings, one by one: what each one changes and what it must not."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_table import CLASSES, NETS, clusters, one_step, tensors
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.cost.book import book
from lightning_fwd.graph.step import Logits, StepRecord, Update
from lightning_fwd.methods.pepita.scaling import input_magnitude
from lightning_fwd.models import DSCNN, MLP, MobileNetV1, ResNet8
from lightning_fwd.trace import trace_step


def gradients(kind, method, x=None):
    torch.manual_seed(1)
    net = NETS[kind]() if isinstance(kind, str) else kind()
    cx, y = clusters(net, 12)
    model = lf.rewrite(net, method, cx[:2])
    one_step(model, cx if x is None else x, y)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- MEMPEPITA


@st.composite
def random_nets(draw):
    """Chains of linear layers or convolutions with any of dropout, pooling, batch norm, a residual branch, and a seed."""
    convolutional, depth, seed = draw(st.booleans()), draw(st.integers(1, 4)), draw(st.integers(0, 99))
    parts = [draw(st.sets(st.sampled_from(["dropout", "pool", "norm", "branch"]), max_size=3)) for _ in range(depth)]
    widths = [draw(st.integers(2, 7)) for _ in range(depth)]
    return convolutional, parts, widths, seed


class Branch(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return torch.relu(x + self.inside(x))


def build(convolutional, parts, widths, seed):
    torch.manual_seed(seed)
    modules, width = [], 3
    for part, new in zip(parts, widths, strict=True):
        modules += [nn.Conv2d(width, new, 3, padding=1) if convolutional else nn.Linear(width, new)]
        if "norm" in part:
            modules.append(nn.BatchNorm2d(new) if convolutional else nn.BatchNorm1d(new))
        modules.append(nn.ReLU())
        if "branch" in part:
            modules.append(Branch(nn.Conv2d(new, new, 3, padding=1) if convolutional else nn.Linear(new, new)))
        if "dropout" in part:
            modules.append(nn.Dropout(0.3))
        if "pool" in part and convolutional:
            modules.append(nn.MaxPool2d(2, 1))
        width = new
    modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if convolutional else []
    return nn.Sequential(*modules, nn.Linear(width, CLASSES)), (3, 8, 8) if convolutional else (3,)


@settings(max_examples=25, deadline=None)
@given(random_nets(), st.sampled_from(["standard", "hebbian"]), st.integers(1, 5), st.sampled_from(["root", "activity"]))
def test_mempepita_is_pepita_bit_for_bit(spec, variant, batch, scale):
    found = []
    for recompute in (False, True):
        net, shape = build(*spec)
        x, y = torch.rand(batch, *shape), torch.arange(batch) % CLASSES
        model = lf.rewrite(net, lf.Pepita(variant=variant, update_scale=scale, recompute=recompute), x)
        torch.manual_seed(3)
        one_step(model, torch.rand(batch, *shape), y)
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert equal(*found)


def test_mempepita_is_cheaper_by_what_the_book_says():
    """The book: activations cost the sum of all buffers in PEPITA, in MEMPEPITA the largest neighbours and one more, at one forward pass
    more."""
    layers, width, batch = 12, 32, 64
    net, y = MLP(width, [width] * layers, width), torch.zeros(batch, dtype=torch.int64)
    reports = {}
    for recompute in (False, True):
        model = lf.rewrite(net, lf.Pepita(recompute=recompute), torch.zeros(2, width))
        reports[recompute] = step_cost(model, (torch.zeros(batch, width), y))
        lf.unwrap(model)
    stored, again = reports[False], reports[True]
    buffer, forward = 4 * batch * width, batch * width * width * (layers + 1)
    book = (layers - 1) * buffer  # all hidden activations but the one at hand
    assert stored.peak_ram_bytes - again.peak_ram_bytes == pytest.approx(book, rel=0.05)
    assert again.total_macs - stored.total_macs == pytest.approx(forward, rel=0.1)  # the head is not run again


def report_of(net, width="fp32", **settings):
    x, y = torch.zeros(1, *net.input_shape), torch.zeros(1, dtype=torch.int64)
    return step_cost(lf.rewrite(net.eval(), lf.Pepita(batch_norm="fold", **settings), x), (x, y), width=width)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in (DSCNN, MobileNetV1)] + [ResNet8])
def test_mempepita_saves_the_activations_that_the_book_says(kind):
    """int8, batch 1, as the book. Between its passes PEPITA stores what the book sums up, once a residual sum takes the place of a branch
    (28,672 B
    of ResNet-8's). Beside that the whole peak holds what the book leaves out, a buffer each: PEPITA's of its second pass, MEMPEPITA's ``h -
    h_err``. They are alike on DS-CNN (the peak saves 48,696 B, the book 48,614 B), but 27,648 B (``x_err``) and 36,864 B on MobileNet
    (158,339 B; the book 167,306 B); on ResNet-8 the peak saves 6,700 B, the book without buffers for sums 7,282 B, with them 35,954 B."""
    said = book(kind(), kind.input_shape)
    sums = sum(layer.output_bytes for layer in said.layers if layer.kind == "add")
    plan, again = report_of(kind(), "int8").plan, report_of(kind(), "int8", recompute=True)
    between = next(i for i, (_, phase, _) in enumerate(plan.moments) if phase == "projection")
    stored = sum(b.bytes for b in plan.alive(between) if b.category in ("activations", "input"))
    working = again.ram_bytes_by_category["activations"]
    assert stored == pytest.approx(said.activation_bytes["PEPITA"] - sums, rel=0.01)
    assert working == pytest.approx(said.activation_bytes["MEMPEPITA"], rel=0.01)
    assert stored - working == pytest.approx(said.activation_bytes["PEPITA"] - sums - said.activation_bytes["MEMPEPITA"], rel=0.05)
    left_out = again.ram_bytes_by_category["deltas"], plan.peak_bytes - again.peak_ram_bytes - (stored - working)
    assert left_out[0] > 0 and abs(left_out[1]) <= left_out[0]  # the whole peaks differ from this by less than the buffer left out


def test_time_local_holds_no_first_pass_on_resnet8():
    """It holds two buffers of the second pass and h."""
    assert report_of(ResNet8(), variant="time_local").ram_bytes_by_category["activations"] == pytest.approx(3 * 65_536, rel=0.05)


# ---- time-local


def test_time_local_knows_its_first_term_before_the_logits_and_keeps_nothing_of_pass_1():
    net, _ = MLP(16, (24, 20), CLASSES), None
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.Pepita(variant="time_local"), x).train()
    alive = []

    def remember(_module, _args, output):
        alive.append(weakref.ref(output))

    for module in (net.fc1, net.relu1, net.fc2, net.relu2):
        module.register_forward_hook(remember)
    updates = model.method.updates(model, StepRecord(x, y, 1.0, torch.zeros((), dtype=torch.int64)))
    before = []
    while isinstance(item := next(updates), Update):
        before.append(item.name)
        del item
    assert isinstance(item, Logits)
    assert before == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    gc.collect()
    assert len(alive) == 4 and not any(ref() is not None for ref in alive)


def test_time_local_terms_sum_to_the_hebbian_update():
    hebbian, local = (gradients("residual", lf.Pepita(variant=v)) for v in ("hebbian", "time_local"))
    assert hebbian.keys() == local.keys()
    for name in hebbian:
        torch.testing.assert_close(hebbian[name], local[name], rtol=1e-4, atol=1e-5)


# ---- feedback


@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_regenerated_feedback_gives_the_stored_one_s_updates_bit_for_bit(kind):
    assert equal(*(gradients(kind, lf.Pepita(feedback=f, seed=7)) for f in ("stored", "regenerated")))


def test_regenerated_feedback_is_no_buffer_and_the_ledger_knows():
    net = MLP(40, (8,), CLASSES)
    batch = torch.zeros(3, 40), torch.zeros(3, dtype=torch.int64)
    reports = {}
    for feedback in ("stored", "regenerated"):
        model = lf.rewrite(net, lf.Pepita(feedback=feedback), batch[0])
        assert ("_lfwd.feedback.matrix" in model.state_dict()) == (feedback == "stored")
        reports[feedback] = step_cost(model, batch)
        lf.unwrap(model)
    matrices = {name: report.plan.flash["feedback matrix"] for name, report in reports.items()}
    assert matrices == {"stored": 40 * CLASSES * 4, "regenerated": 0}
    macs = {name: report.macs_by_phase["projection"] for name, report in reports.items()}
    assert macs == {"stored": 3 * 40 * CLASSES, "regenerated": 3 * 40 * CLASSES}


def test_feedback_is_he_uniform_times_its_scale_and_depends_on_the_seed_alone():
    def matrix(seed, scale=0.05):
        return lf.rewrite(MLP(96, (4,)), lf.Pepita(seed=seed, feedback_scale=scale), torch.zeros(1, 96)).inserted.feedback.matrix

    bound = 0.05 * (6 / 96) ** 0.5
    assert torch.equal(matrix(1), matrix(1)) and not torch.equal(matrix(1), matrix(2))
    assert matrix(1).abs().max() <= bound and matrix(1).std() == pytest.approx(bound / 3**0.5, rel=0.1)
    torch.testing.assert_close(matrix(1, 0.5), matrix(1) * 10)


@pytest.mark.parametrize(("values", "magnitude"), [(0.3, 1.0), (1.2, 1.0), (3.0, 4.0), (140.0, 128.0), (0.0, 1.0)])
def test_feedback_takes_the_input_s_unit(values, magnitude):
    assert input_magnitude(torch.full((2, 5), values)) == magnitude
    model = lf.rewrite(MLP(5, (4,)), lf.Pepita(), torch.full((2, 5), values))
    plain = lf.rewrite(MLP(5, (4,)), lf.Pepita(input_scale=1.0), torch.full((2, 5), values))
    torch.testing.assert_close(model.inserted.feedback.matrix, plain.inserted.feedback.matrix * magnitude)


# ---- weight mirroring


def mirrored_matrix(**settings):
    torch.manual_seed(2)
    net = MLP(12, (10,), CLASSES)
    net.relu1 = nn.Identity()  # linear: the Jacobian is the product of the weights
    x, y = clusters(MLP(12), 64)
    model = lf.rewrite(net, lf.Pepita(**settings), x)
    before = model.inserted.feedback.matrix.clone()
    product = (net.classifier.weight @ net.fc1.weight).detach()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    angles = []
    for _ in range(6):
        one_step(model, x, y)
        optimizer.step()
        angles.append(F.cosine_similarity(model.inserted.feedback.matrix.flatten(), -product.t().flatten(), 0).item())
    return before, model.inserted.feedback.matrix, angles


def test_mirroring_before_training_turns_feedback_against_the_product_of_the_weights():
    before, after, angles = mirrored_matrix(mirror_rounds=40)
    assert min(angles) > 0.97 and len(set(angles)) == 1
    torch.testing.assert_close(after.norm(), before.norm())


def test_mirroring_at_intervals_turns_it_step_by_step():
    _, _, angles = mirrored_matrix(mirror_interval=2, mirror_share=0.5)
    assert abs(angles[0]) < 0.5 and angles[1] == angles[0] and angles[2] > angles[1] and angles[3] == angles[2] and angles[4] > angles[3]


def test_the_first_mirrored_step_already_uses_what_it_mirrored():
    torch.manual_seed(2)
    net = MLP(16, (24,), CLASSES)
    x, y = clusters(net, 32)
    model = lf.rewrite(net, lf.Pepita(mirror_rounds=30), x)
    one_step(model, x, y)
    first = net.fc1.weight.grad.clone()
    net.fc1.weight.grad = None
    one_step(model, x, y)  # weights unchanged, F mirrored and stored
    assert torch.equal(first, net.fc1.weight.grad)


def test_mirrored_updates_point_along_backpropagation_s():
    torch.manual_seed(2)
    net = MLP(16, (24, 20), CLASSES)
    x, y = clusters(net, 48)
    cosine = {}
    backprop = torch.autograd.grad(F.cross_entropy(net(x), y), [net.fc1.weight, net.fc2.weight])
    for rounds in (0, 60):
        model = lf.rewrite(net, lf.Pepita(mirror_rounds=rounds), x)
        one_step(model, x, y)
        mine = [net.fc1.weight.grad, net.fc2.weight.grad]
        cosine[rounds] = [F.cosine_similarity(a.flatten(), b.flatten(), 0).item() for a, b in zip(mine, backprop, strict=True)]
        for parameter in net.parameters():
            parameter.grad = None
        lf.unwrap(model)
    assert min(cosine[60]) > 0.3 and all(m > r + 0.2 for m, r in zip(cosine[60], cosine[0], strict=True))


def test_a_traced_step_holds_no_mirroring():
    net, batch = MLP(16, (8,), CLASSES), (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    model = lf.rewrite(net, lf.Pepita(mirror_rounds=3, mirror_interval=1), batch[0])
    assert not any("feedback" in name for name in trace_step(model, batch).outputs)


# ---- dropout, normalisation, residual branches


def test_both_passes_drop_the_same_units():
    net = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, CLASSES))
    x, y = torch.rand(8, 6), torch.arange(8) % CLASSES
    model = lf.rewrite(net, lf.Pepita(feedback_scale=1e-6), x)
    one_step(model, x, y)
    assert net[0].weight.grad.abs().max() < 1e-4  # h - h_err of two different masks would be of the size of h


def test_dropout_of_everything_leaves_zeros():
    net, x = nn.Sequential(nn.Linear(6, 8), nn.Dropout(1.0), nn.Linear(8, CLASSES)), torch.rand(4, 6)
    one_step(lf.rewrite(net, lf.Pepita(), x), x, torch.arange(4))
    assert all(p.grad.isfinite().all() for p in net.parameters()) and not net[0].weight.grad.any() and net[2].bias.grad.any()


def test_normalisation_is_per_sample_and_starts_with_the_first_step():
    torch.manual_seed(1)
    net = NETS["conv"]()
    x, y = clusters(net, 12)
    expected = net.eval()(x)
    model = lf.rewrite(net, lf.Pepita(normalise=True), x[:2])
    assert torch.equal(model(x), expected)
    one_step(model, x, y)
    model.eval()
    assert not torch.allclose(model(x), expected, atol=1e-3)
    torch.testing.assert_close(model(x)[3:4], model(x[3:4]), rtol=1e-4, atol=1e-5)
    model.eval()
    x[0] *= 10  # another sample of the batch
    torch.testing.assert_close(model(x)[3:4], model(x[3:4]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lf.unwrap(model).eval()(x[1:]), expected[1:])


def test_residual_option_chooses_the_activation_that_is_compared():
    both, own = (gradients("residual", lf.Pepita(residual=r, update_scale="root")) for r in ("sum", "own"))
    assert not torch.allclose(both["conv2.weight"], own["conv2.weight"], rtol=1e-2)
    assert torch.equal(both["conv1.weight"], own["conv1.weight"])  # alone on its branch


# ---- the optimizer's part, a frozen layer, errors


def test_weight_decay_is_the_optimizer_s():
    torch.manual_seed(1)
    net = MLP(16, (8,), CLASSES)
    x, y = clusters(net, 8)
    model, before = lf.rewrite(net, lf.Pepita(), x), tensors(net)
    one_step(model, x, y)
    torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.5).step()
    weight = before["fc1.weight"]
    torch.testing.assert_close(net.fc1.weight.detach(), weight - 0.1 * (net.fc1.weight.grad + 0.5 * weight))


def test_a_frozen_layer_stays_and_those_around_it_learn():
    net = MLP(16, (8, 8), CLASSES)
    net.fc2.requires_grad_(False)
    x, y = clusters(net, 8)
    one_step(lf.rewrite(net, lf.Pepita(variant="hebbian"), x), x, y)
    assert net.fc2.weight.grad is None and net.fc1.weight.grad.norm() > 0 and net.classifier.weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feedback_scale": 0.0}, "positive"),
        ({"mirror_noise": -1.0}, "positive"),
        ({"variant": "time_local", "recompute": True}, "leave one out"),
        ({"variant": "time_local", "update_scale": "activity"}, "another scale"),
        ({"feedback": "regenerated", "mirror_rounds": 3}, "stored"),
        ({"variant": "hebian"}, "hebbian"),
        ({"update_scale": "mean"}, "positions"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(lf.LightningFwdError, match=words):
        lf.rewrite(MLP(16, (8,)), lf.Pepita(**settings), torch.zeros(1, 16))


def test_error_of_the_second_pass_needs_cross_entropy():
    net = MLP(16, (8,), CLASSES)
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.Pepita(output_error="modulated"), x)
    with pytest.raises(lf.StepError, match="cross-entropy"):
        one_step(model, x, y, loss=lambda logits, y: (logits - F.one_hot(y, CLASSES)).square().sum(1).mean() * 9)


def test_samples_of_another_shape_than_the_example_s_are_refused():
    net = NETS["conv"]()
    x, y = clusters(net, 8)
    model = lf.rewrite(net, lf.Pepita(), x)
    with pytest.raises(lf.StepError, match=r"shape \(1, 9, 9\)"):
        one_step(model, torch.rand(8, 1, 9, 9), y)
