"""Everything a user can hand in wrongly: a clear error, and nothing changed by it."""

import lightning
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from method_table import NETS, WITHOUT_GRADIENT, Task, clusters, loader, one_step, tensors, trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_fwd as lf


@pytest.fixture
def module():
    return Task(NETS["mlp"]())


@pytest.fixture
def refused(module):
    """A context that expects an error with what, why and mend, and the module as it was."""

    class Refused:
        def __init__(self, *words, error=lf.LightningFwdError):
            self.words, self.expects = words, pytest.raises(error)

        def __enter__(self):
            self.before, self.flags = tensors(module), [p.requires_grad for p in module.parameters()]
            self.raised = self.expects.__enter__()

        def __exit__(self, *failure):
            caught = self.expects.__exit__(*failure)
            if not caught:
                return False
            error = self.raised.value
            assert error.what and error.mend
            assert all(word in str(error) for word in self.words), str(error)
            lf.unwrap(module)
            assert tensors(module).keys() == self.before.keys()
            assert all(torch.equal(t, self.before[n]) for n, t in tensors(module).items())
            assert [p.requires_grad for p in module.parameters()] == self.flags
            return caught

    return Refused


def test_untraceable_model(module, refused):
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.k = nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            h = self.a(x)
            return self.b(h) + self.k(h) if h.sum() > 1e9 else self.b(h) - self.k(h)

    module.network = Untraceable()
    with refused("Untraceable", "control flow", error=lf.CaptureError):
        trainer("pepita").fit(module, loader())
    assert isinstance(module.network, Untraceable)


def test_model_with_two_inputs(module, refused):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 4)

        def forward(self, x, y):
            return self.a(x + y)

    module.network = Two()
    with refused("takes 2 inputs (x, y)", error=lf.CaptureError):
        trainer("backprop").fit(module, loader())


def test_compiled_module(module, refused):
    class Own(Task):
        def forward(self, x):
            return self.network(x)

    module.__class__ = Own
    module.extra = nn.Parameter(torch.zeros(1))  # so that the LightningModule itself is the network
    with pytest.raises(lf.CaptureError, match="torch.compile"):
        trainer("pepita").fit(torch.compile(module), loader())


@pytest.mark.parametrize("name", ["forward_forward", "pepita"])
def test_indices_as_input(name, module, refused):
    module.network = nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
    tokens = [(torch.arange(6), 0), (torch.arange(6), 1)]
    with refused("torch.int64", "behind the embedding", error=lf.RewriteError):
        trainer(name).fit(module, DataLoader(tokens, 2))


def test_16_mixed_on_a_cpu_is_lightning_s_bf16(module):
    with pytest.warns(UserWarning, match="bf16-mixed"):
        run = trainer("pepita", precision="16-mixed")
    run.fit(module, loader())
    assert run.precision == "bf16-mixed"


def test_model_that_returns_no_logits(module, refused):
    module.network = nn.Conv1d(1, 4, 3)
    with refused("logits (B, C)", error=lf.RewriteError):
        lf.rewrite(module.network, "backprop", torch.zeros(2, 1, 16))
    module.network = nn.GRU(16, 4)
    with refused("tuple", error=lf.CaptureError):
        lf.rewrite(module.network, "backprop", torch.zeros(2, 16))


@pytest.mark.parametrize("name", ["forward_forward", "local_loss"])
def test_batch_without_labels(name, module, refused):
    class Unlabelled(Task):
        def training_step(self, batch, batch_idx):
            return self(batch).square().mean()

    module.__class__ = Unlabelled
    with refused("labels", "target_key", error=lf.StepError):
        trainer(name).fit(module, DataLoader(clusters()[0], 16))


@pytest.mark.parametrize("name", ["forward_forward", "local_loss"])
@pytest.mark.parametrize(
    "wrong",
    [lambda y: y + 1, lambda y: y - 1, lambda y: F.one_hot(y, 4), lambda y: y.float(), lambda y: y[:4]],
    ids=["too large", "negative", "one-hot", "float", "too few"],
)
def test_wrong_labels(name, wrong, module, refused):
    x, y = clusters(count=16)
    model = lf.rewrite(module.network, name, x)
    with refused("labels", error=lf.StepError):
        try:
            one_step(model, x, wrong(y), loss=lambda logits, _: logits.sum())
        finally:
            assert all(p.grad is None for p in model.parameters())
            lf.unwrap(model)


def test_wrong_number_of_classes_names_both_numbers(module):
    x, y = clusters(count=16)
    with pytest.raises(lf.StepError, match="from 0 to 5, but the model has 4 classes"):
        one_step(lf.rewrite(module.network, "local_loss", x), x, torch.arange(16) % 6, loss=lambda logits, _: logits.sum())


@pytest.mark.parametrize("name", [n for n in lf.METHODS if n not in WITHOUT_GRADIENT])
def test_nothing_left_to_train(name, module, refused):
    for parameter in module.network.parameters():
        parameter.requires_grad_(False)
    with refused("left to train", error=lf.RewriteError):
        trainer(name).fit(module, loader())


def test_statistics_without_batch_norm(module, refused):
    with refused("no batch norm", error=lf.RewriteError):
        trainer("statistics").fit(module, loader())


def test_statistics_of_one_value():
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    x, y = clusters(count=2)
    model, before = lf.rewrite(net, "statistics", x), tensors(net)
    with pytest.raises(lf.StepError, match="'1' sees one value"):
        one_step(model, x[:1], y[:1])
    assert all(torch.equal(t, before[n]) for n, t in tensors(net).items())


def test_half_precision_with_loss_scaling(module, refused):
    strategy = lf.ForwardOnlyStrategy("pepita")
    run = trainer(strategy)
    strategy.precision_plugin = MixedPrecision.__new__(MixedPrecision)
    strategy.precision_plugin.precision = "16-mixed"  # Lightning itself makes one on a GPU only
    with refused("16-mixed", "bf16-mixed"):
        run.fit(module, loader())


def test_two_optimizers(module, refused):
    class Two(Task):
        def configure_optimizers(self):
            return [torch.optim.SGD([p], 0.1) for p in (self.network.fc1.weight, self.network.fc2.weight)]

    module.__class__ = Two
    with refused("several optimizers", "one optimizer"):
        trainer("local_loss").fit(module, loader())
    assert not isinstance(module.network, lf.RewrittenModel)


@pytest.mark.parametrize("name", [n for n in lf.METHODS if n not in WITHOUT_GRADIENT])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(name, value, module, refused):
    class Exploding(Task):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * value

    module.__class__ = Exploding
    with refused("the loss is", error=lf.StepError):
        trainer(name).fit(module, loader())


def test_unknown_names(module, refused):
    with refused("unknown method 'pepito'", "pepita", error=lf.RewriteError):
        lf.ForwardOnlyStrategy("pepito")
    with refused("no submodule 'nett'", "network", error=lf.RewriteError):
        trainer(lf.ForwardOnlyStrategy("pepita", module="nett")).fit(module, loader())
    with refused("granularity", "fc1", error=lf.RewriteError):
        trainer(lf.LocalLoss(granularity=["fc9"])).fit(module, loader())
    with refused("at most 3 blocks", error=lf.RewriteError):
        trainer(lf.LocalLoss(granularity=7)).fit(module, loader())


class Parts(Task):
    """Several children, no forward."""

    forward = lightning.LightningModule.forward

    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)))
        self.scale = nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.scale(self.network(batch[0])), batch[1])


def test_several_children_and_no_forward():
    module = Parts()
    with pytest.raises(lf.RewriteError, match=r"Parts has no forward(.|\n)*network, scale(.|\n)*module='network'"):
        trainer("pepita").fit(module, loader())
    before = tensors(module)
    trainer(lf.ForwardOnlyStrategy("pepita", module="network")).fit(module, loader())
    assert not torch.equal(before["network.0.weight"], tensors(lf.unwrap(module))["network.0.weight"])


@pytest.mark.parametrize("name", [n for n in lf.METHODS if n not in WITHOUT_GRADIENT])
def test_a_penalty_on_parameters_is_not_lost_silently(name, module, refused):
    class Penalised(Task):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + 1e-3 * sum(p.square().sum() for p in self.network.parameters())

    module.__class__ = Penalised
    with refused("the loss depends on", "weight_decay", error=lf.StepError):
        trainer(name).fit(module, loader())
    Penalised.training_step = lambda self, batch, i: Task.training_step(self, batch, i) + self.network.fc1.weight.detach().norm()
    trainer(name, max_steps=1).fit(module, loader())


def test_batch_without_an_input(module, refused):
    strategy = lf.ForwardOnlyStrategy("pepita", input_key="pixels")
    with refused("picture", "input_key", error=lf.StepError):
        trainer(strategy).fit(module, DataLoader([{"picture": x, "label": 0} for x in clusters()[0]], 4))
    with refused("picture", error=lf.StepError):
        strategy.input_of({"picture": torch.zeros(1)})


def test_resume_by_another_rule(module, refused, tmp_path):
    first = trainer("local_loss")
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "local.ckpt")
    lf.unwrap(module)
    fresh = Task(NETS["mlp"]())
    with pytest.raises(lf.LightningFwdError, match="resume with the same rule"):
        trainer("pepita", max_epochs=2).fit(fresh, loader(), ckpt_path=tmp_path / "local.ckpt")


def test_plain_loop_mistakes(module, refused):
    x, y = clusters(count=8)
    net = module.network
    model = lf.rewrite(net, "pepita", x)
    with pytest.raises(lf.RewriteError, match="already rewritten"):
        lf.rewrite(model, "pepita", x)
    model.eval()
    with pytest.raises(lf.StepError, match="no training forward"):
        model.backward(F.cross_entropy(model(x), y))
    model.train()
    with pytest.raises(lf.StepError, match="does not depend on the logits"):
        model(x)
        model.backward(torch.ones((), requires_grad=True) * 2)
    with pytest.raises(lf.StepError, match=r"model.backward\(loss\)"):
        F.cross_entropy(model(x), y).backward()
    assert all(p.grad is None for p in model.parameters())
