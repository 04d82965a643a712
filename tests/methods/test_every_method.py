"""What every learning rule keeps, in a plain loop, over the table of methods."""

import copy
import pickle
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from method_table import CASE_IDS, CASES, NETS, ROWS, WITHOUT_GRADIENT, clusters, one_step, tensors

import lightning_fwd as lf

every_case = pytest.mark.parametrize(("row", "kind"), CASES, ids=CASE_IDS)


def same(a, b, exact=True):
    return all(torch.equal(a[k], b[k]) if exact else torch.allclose(a[k], b[k], atol=1e-6) for k in a) and a.keys() == b.keys()


def rewritten(row, kind):
    torch.manual_seed(1)
    net = NETS[kind]()
    x, y = clusters(net, 16)
    with torch.no_grad():  # statistics that are not the initial ones
        for _ in range(3):
            net.train()(x)
    return net, lf.rewrite(net, row.method(), x[:2]), x, y


def test_every_registered_method_has_a_row():
    assert {type(row.method()) for row in ROWS} == set(lf.METHODS.values())


@every_case
def test_eval_output_is_the_original_s(row, kind):
    torch.manual_seed(1)
    net = NETS[kind]()
    x, _ = clusters(net, 16)
    net.train()(x)
    with torch.no_grad():
        expected = net.eval()(x)
        got = lf.rewrite(net, row.method(), x[:2])(x)
    assert torch.equal(got, expected) if row.exact else torch.allclose(got, expected, atol=1e-5)


@every_case
def test_rewrite_and_unwrap_leave_no_trace(row, kind):
    torch.manual_seed(1)
    net = NETS[kind]()
    x, _ = clusters(net, 4)
    frozen = next(net.parameters())
    frozen.requires_grad_(False)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms[:1]:
        norm.eval()  # a user's own frozen norm
    state, flags = tensors(net), [p.requires_grad for p in net.parameters()]
    modes = [m.training for m in net.modules()]
    inplace = [getattr(m, "inplace", None) for m in net.modules()]
    attributes, identity = set(vars(net)), [id(p) for p in net.parameters()]
    generator = torch.get_rng_state()
    back = lf.unwrap(lf.rewrite(net, row.method(), x))
    assert back is net
    assert same(tensors(net), state, row.exact)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [m.training for m in net.modules()] == modes
    assert [getattr(m, "inplace", None) for m in net.modules()] == inplace
    assert set(vars(net)) == attributes
    assert [id(p) for p in net.parameters()] == identity
    assert torch.equal(torch.get_rng_state(), generator)


@every_case
def test_a_step_reaches_what_the_rule_trains_and_unwrap_gives_it_back(row, kind):
    net, model, x, y = rewritten(row, kind)
    keys = list(net.state_dict())
    one_step(model, x, y)
    silent = [n for n, p in model.named_parameters() if row.trains(n) and p.requires_grad and p.grad is None]
    assert not silent
    for parameter in model.parameters():
        assert parameter.grad is None or (parameter.grad.shape == parameter.shape and parameter.grad.isfinite().all())
        if parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad
    model.eval()
    with torch.no_grad():
        trained = model.run(x) if row.predicts_by_goodness else model(x)
        back = lf.unwrap(model).eval()(x)
    assert list(net.state_dict()) == keys
    assert torch.allclose(trained, back, atol=1e-5), "unwrap changed the function that was trained"


@every_case
def test_same_seed_same_step(row, kind):
    results = []
    for _ in range(2):
        _, model, x, y = rewritten(row, kind)
        torch.manual_seed(5)
        one_step(model, x, y)
        one_step(model, x, y)
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None} | tensors(model))
    assert same(*results)


@every_case
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_independent_and_trains_alike(row, kind, duplicate):
    _, model, x, y = rewritten(row, kind)
    one_step(model, x, y)
    twin = duplicate(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    grads = []
    for m in (twin, model):
        for p in m.parameters():
            p.grad = None
        torch.manual_seed(5)
        one_step(m, x, y)
        grads.append({n: p.grad for n, p in m.named_parameters() if p.grad is not None})
        if m is twin:
            for p in twin.parameters():
                p.data.zero_()
            assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert same(*grads)
    lf.unwrap(twin), lf.unwrap(model)


@pytest.mark.parametrize(
    ("method", "example", "message"),
    [
        (lf.LocalLoss, torch.rand(2, 16), r"LocalLoss\(\), or a name"),
        (3, torch.rand(2, 16), "3 is no learning rule"),
        (lf.LocalLoss(), (torch.rand(2, 16), torch.zeros(2)), "is a tuple, expected one tensor"),
        ("pepita", None, "is a NoneType"),
    ],
)
def test_what_is_no_rule_or_no_example_is_told(method, example, message):
    with pytest.raises(lf.RewriteError, match=message):
        lf.rewrite(NETS["mlp"](), method, example)


@pytest.mark.parametrize("name", lf.METHODS)
def test_a_word_that_no_setting_knows_is_refused_when_the_rule_is_built(name):
    kinds = get_type_hints(lf.METHODS[name]).items()
    words = {setting: get_args(kind) for setting, kind in kinds if get_origin(kind) is Literal}
    for setting, known in words.items():
        with pytest.raises(lf.RewriteError, match=f"{setting}='{known[0]}s'") as raised:
            lf.METHODS[name](**{setting: f"{known[0]}s"})
        assert all(repr(word) in str(raised.value) for word in known)
        assert getattr(lf.METHODS[name](**{setting: known[-1]}), setting) == known[-1]
    assert words or name in WITHOUT_GRADIENT


@every_case
def test_a_step_keeps_to_the_autocast_of_its_forward(row, kind):
    """PyTorch's recipe closes autocast before backward; Lightning's plugin opens it again."""
    _, model, x, y = rewritten(row, kind)
    gradients = []
    for around_backward in (False, True):
        model.zero_grad()
        model.inserted.counter.zero_()
        torch.manual_seed(2)
        with model.train().step(y), torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        with torch.autocast("cpu", torch.bfloat16, enabled=around_backward):
            model.backward(loss)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert same(*gradients) and (gradients[0] or row.falls_to is None)


@pytest.mark.parametrize("end", [torch.nn.LogSoftmax(1), torch.nn.Softmax(1)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    "method",
    [lf.Pepita(), lf.LocalLoss(prediction="sum"), lf.LocalLoss(prediction="last"), lf.ForwardForward(head="layers")],
    ids=lambda m: type(m).__name__,
)
def test_a_softmax_in_the_model_is_refused_where_the_rule_takes_its_output_as_logits(method, end):
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4), end)
    with pytest.raises(lf.RewriteError, match=f"ends in {type(end).__name__}"):
        lf.rewrite(net, method, torch.rand(2, 16))
    lf.rewrite(net, "local_loss", torch.rand(2, 16))


@every_case
def test_what_is_frozen_after_the_rewrite_stays_until_it_is_freed(row, kind):
    _, model, x, y = rewritten(row, kind)
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning[:-1]:
        parameter.requires_grad_(False)
        model.zero_grad()
        one_step(model, x, y)
        assert parameter.grad is None
        parameter.requires_grad_(True)
    one_step(model, x, y)
    assert row.falls_to is None or any(p.grad is not None for p in learning)
