"""A batch that is refused has changed nothing, running statistics included; calls by name, freezing, complex weights, and a fit that ends
broken."""

import copy
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from method_table import NETS, Task, clusters, loader, tensors, trainer
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


class Refusing(Task):
    """The second batch is bad; subclasses say how."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            self.before = tensors(self.network.original)
            return self.bad(*batch)
        return super().training_step(batch, batch_idx)


class NotANumber(Refusing):
    def bad(self, x, y):
        return super().training_step((x * float("nan"), y), 0)


class Infinite(Refusing):
    def bad(self, x, y):
        return super().training_step((x, y), 0) * float("inf")


class OutOfRange(Refusing):
    def bad(self, x, y):
        return super().training_step((x, y + 9), 0)


class Detached(Refusing):
    def bad(self, x, y):
        return F.cross_entropy(self(x).detach().requires_grad_(), y)


class Permuted(Refusing):
    def bad(self, x, y):
        return F.cross_entropy(self(x), (y + 1) % 4)


@pytest.mark.parametrize("cls", [NotANumber, Infinite, OutOfRange, Detached])
@pytest.mark.parametrize("rule", ["backprop", "local_loss", "direct_feedback", lf.ForwardForward(batch_norm="train")], ids=str)
def test_a_refused_batch_has_changed_nothing(rule, cls):
    module = cls(NETS["residual"]())
    with pytest.raises((lf.LightningFwdError, IndexError)):
        trainer(rule).fit(module, loader(module.network))
    after = tensors(lf.unwrap(module).network)
    assert all(torch.equal(t, module.before[n]) for n, t in after.items())


def test_labels_that_do_not_fit_have_changed_nothing_either():
    module = Permuted(NETS["residual"]())
    with pytest.raises(lf.StepError, match="do not fit"):
        trainer("local_loss").fit(module, loader(module.network))
    assert all(torch.equal(t, module.before[n]) for n, t in tensors(lf.unwrap(module).network).items())


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, pixels, scale=1.0, mask=None):
        return self.o(F.relu(self.a(pixels))) * scale


class ByName(Task):
    def forward(self, x):
        return self.network(pixels=x, mask=None, scale=1.0)


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita"])
def test_the_input_by_its_name(rule):
    module = ByName(Pixels())
    trainer(rule, callbacks=[lf.StepCost(), lf.Diagnosis(plot=False)]).fit(module, loader(), loader())
    assert module.network.has_learned and torch.stack(module.losses).isfinite().all()


class OtherScale(Task):
    def forward(self, x):
        return self.network(x, scale=2.0)


def test_another_argument_than_captured_is_refused():
    with pytest.raises(lf.StepError, match=r"scale=2.0(.|\n)*captured with the default, 1.0"):
        trainer("backprop").fit(OtherScale(Pixels()), loader())


class FreezeFirst(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.network)
        self.make_trainable(module.network.classifier if hasattr(module.network, "classifier") else module.network[-1])

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.network, optimizer, lr=0.01)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
@pytest.mark.parametrize("example", [False, True])
def test_freezing_the_network(kind, example):
    class Unfrozen(Task):
        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.05)

    module = Unfrozen(NETS[kind]())
    if example:
        module.example_input_array = clusters(module.network, 2)[0]
    trainer("local_loss", callbacks=[FreezeFirst()], max_epochs=2).fit(module, loader(module.network))
    assert module.network.has_learned


class Copying(Task):
    """A teacher made inside the step."""

    def training_step(self, batch, batch_idx):
        before = copy.deepcopy(self.network)
        loss = super().training_step(batch, batch_idx)
        after = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            assert torch.equal(after(batch[0]), before.eval()(batch[0])) or any(isinstance(m, nn.BatchNorm2d) for m in self.modules())
        return loss


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita", "direct_feedback"])
@pytest.mark.parametrize("kind", ["mlp", "residual"])
def test_a_copy_of_the_network_inside_a_step(rule, kind):
    module = Copying(NETS[kind]())
    trainer(rule).fit(module, loader(module.network))
    assert module.network.has_learned


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Parameter(torch.randn(16, 8, dtype=torch.cfloat)), nn.Linear(8, 4)

    def forward(self, x):
        return self.o((x.to(torch.cfloat) @ self.a).abs())


@pytest.mark.parametrize("rule", ["local_loss", "pepita", "zeroth_order", "direct_feedback"])
def test_complex_weights_are_refused_by_rules_of_real_numbers(rule):
    with pytest.raises(lf.RewriteError, match=r"a holds complex numbers(.|\n)*backprop"):
        trainer(rule).fit(Task(Complex()), loader())


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.n, self.f, self.g, self.o = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        h = self.e(x.view(x.shape[0], 4, 4))
        return self.o((h + self.g(F.gelu(self.f(self.n(h))))).mean(1))


@pytest.mark.parametrize("rule", ["local_loss", "forward_forward", "pepita"])
def test_token_residuals_are_priced(rule):
    batch = clusters(count=8)
    assert lf.step_cost(lf.rewrite(Tokens(), rule, batch[0]), batch).total_macs > 0


def test_a_fit_that_ends_broken_says_so():
    class Breaking(Task):
        def on_train_batch_end(self, *args):
            with torch.no_grad():
                next(self.parameters()).fill_(float("inf"))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer("backprop", max_steps=1).fit(Breaking(NETS["mlp"]()), loader())
    assert any("ends with weights that are not finite" in str(w.message) for w in caught)
