"""``LightningModule.backward`` overridden, the arguments of ``manual_backward``, and hooks on the gradients of parameters."""

import pytest
import torch
from method_table import NETS, Task, loader, tensors, trainer
from rules_in_lightning import RULES, every_rule
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


def weights(cls, rule, **settings):
    torch.manual_seed(1)
    module = cls(NETS["mlp"]())
    trainer(rule, **settings).fit(module, loader())
    return tensors(lf.unwrap(module))


def same(one, other):
    return all(torch.allclose(one[n], t, atol=1e-6) for n, t in other.items())


class Own(Task):
    def backward(self, loss, *args, **kwargs):
        loss.backward(*args, **kwargs)


class Twice(Task):
    def backward(self, loss):
        (2 * loss).backward()


class LossTimesTwo(Task):
    def training_step(self, batch, batch_idx):
        return 2 * super().training_step(batch, batch_idx)


class Nothing(Task):
    def backward(self, loss):
        pass


@every_rule
def test_an_override_of_backward_is_honoured(rule):
    make = RULES[rule]
    assert same(weights(Own, make(), max_steps=3), weights(Task, make(), max_steps=3))
    assert same(weights(Twice, make(), max_steps=3), weights(LossTimesTwo, make(), max_steps=3))


def test_an_override_that_calls_no_backward_is_told():
    with pytest.raises(lf.StepError, match="does not depend on the logits"):
        weights(Nothing, "backprop")


class Adversarial(Task):
    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(self.network(x), y), x)
        return F.cross_entropy(self.network((x + 0.1 * slope.sign()).detach()), y)


def test_the_gradient_at_the_input_is_refused_in_words():
    with pytest.raises(lf.StepError, match=r"gradient of the loss at the network's input(.|\n)*copy.deepcopy"):
        weights(Adversarial, "backprop")
    with pytest.raises(lf.StepError, match="requires grad"):
        weights(Adversarial, "pepita")


class Clipping(Task):
    """What comes after loss.backward() finds the gradients."""

    def backward(self, loss):
        loss.backward()
        assert all(p.grad is not None for p in self.network.parameters())
        for parameter in self.network.parameters():
            parameter.grad.zero_()


@pytest.mark.parametrize("rule", ["backprop", "local_loss", "pepita"])
def test_gradients_stand_when_an_overriding_backward_goes_on(rule):
    torch.manual_seed(1)
    before = tensors(Clipping(NETS["mlp"]()))
    assert same(weights(Clipping, rule, max_steps=2), before)


class Manual(Task):
    """Manual optimisation; subclasses say how backward is called."""

    def __init__(self, net, **settings):
        super().__init__(net, **settings)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.back(self(batch[0]), batch[1])
        optimizer.step()

    def back(self, logits, y):
        self.manual_backward(3 * F.cross_entropy(logits, y))


class ManualGradient(Manual):
    def back(self, logits, y):
        losses = F.cross_entropy(logits, y, reduction="none")
        self.manual_backward(losses, gradient=torch.full_like(losses, 3 / len(y)), retain_graph=True)
        assert torch.autograd.grad(losses.sum(), logits)[0].any()  # the user's own graph is kept


@every_rule
def test_gradient_and_retain_graph_are_honoured(rule):
    make = RULES[rule]
    assert same(
        weights(ManualGradient, make(), max_epochs=1, limit_train_batches=2), weights(Manual, make(), max_epochs=1, limit_train_batches=2)
    )


class TwoLosses(Manual):
    def back(self, logits, y):
        self.manual_backward(F.cross_entropy(logits, y), retain_graph=True)
        self.manual_backward(logits.square().mean())


class TwoBackwards(Task):
    def backward(self, loss):
        loss.backward(retain_graph=True)
        loss.backward()


class Inputs(Manual):
    def back(self, logits, y):
        self.manual_backward(F.cross_entropy(logits, y), inputs=list(self.network.fc1.parameters()))


class Graph(Manual):
    def back(self, logits, y):
        self.manual_backward(F.cross_entropy(logits, y), create_graph=True)


@pytest.mark.parametrize(
    ("cls", "words"),
    [(TwoLosses, "of several losses the sum"), (TwoBackwards, "add the losses up"), (Inputs, "inputs="), (Graph, "create_graph")],
)
def test_what_a_rule_cannot_do_is_refused(cls, words):
    with pytest.raises(lf.LightningFwdError, match=words):
        weights(cls, "pepita")


class InBackward(Task):
    """An optimizer of each parameter's own, called as soon as its gradient is there."""

    def __init__(self, net, **settings):
        super().__init__(net, **settings)
        self.automatic_optimization = False
        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(self.at_once)

    @staticmethod
    def at_once(parameter):
        parameter.data -= 0.05 * parameter.grad
        parameter.grad = None

    def configure_optimizers(self):
        return None

    def training_step(self, batch, batch_idx):
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))


class InSteps(InBackward):
    def __init__(self, net, **settings):
        Task.__init__(self, net, **settings)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        for parameter in self.parameters():
            if parameter.grad is not None:
                self.at_once(parameter)


HOOKED = {
    "backprop": lf.Backprop(),
    "pepita": lf.Pepita(),
    "two terms of one gradient": lf.Pepita(variant="time_local"),
    "heads that do not learn": lf.LocalLoss(head="random"),
}


@pytest.mark.parametrize("rule", HOOKED, ids=HOOKED)
def test_hooks_on_accumulated_gradients_are_called_once_a_step(rule):
    assert same(
        weights(InBackward, HOOKED[rule], max_epochs=1),
        {n: t for n, t in weights(InSteps, HOOKED[rule], max_epochs=1).items() if "_lfwd" not in n},
    )


def test_heads_that_learn_need_an_optimizer():
    with pytest.raises(lf.LightningFwdError, match="configure_optimizers returned none"):
        weights(InBackward, "local_loss")


class Bare(Task):
    """Two batches, each its own step; ``bare``: loss.backward() itself, as the loops of plain PyTorch have it."""

    bare = True

    def __init__(self, network):
        super().__init__(network)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        for part in (slice(0, None, 2), slice(1, None, 2)):
            optimizer.zero_grad()
            labels = lf.set_labels(y[part])
            loss = F.cross_entropy(self.network(x[part]), labels)
            if self.bare:
                loss.backward()
            else:
                self.manual_backward(loss)
            assert any(p.grad is not None for p in self.network.parameters())
            optimizer.step()


class NotBare(Bare):
    bare = False


@every_rule
def test_a_bare_backward_is_the_step_of_manual_optimisation(rule):
    make = RULES[rule]
    assert same(weights(Bare, make(), max_steps=4), weights(NotBare, make(), max_steps=4))


class TwiceOver(Bare):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.network(x), y)
        loss.backward(retain_graph=True)
        loss.backward()


class PartByPart(Bare):
    """Calls the children of its network, never the network."""

    def __init__(self, network):
        super().__init__(network)
        self.parts = tuple(network.children())

    def training_step(self, batch, batch_idx):
        x, y = batch
        F.cross_entropy(nn.Sequential(*self.parts)(x), y).backward()
        self.optimizers().step()


@pytest.mark.parametrize("rule", ["pepita", "local_loss", "zeroth_order"])
def test_a_bare_backward_of_a_network_that_is_never_called_is_refused(rule):
    """It would be plain training under the rule's name."""
    module = PartByPart(NETS["mlp"]())
    before = tensors(module)
    with pytest.raises(lf.LightningFwdError, match="without calling its network"):
        trainer(rule, max_steps=1).fit(module, loader())
    assert all(torch.equal(t, before[name]) for name, t in tensors(lf.unwrap(module)).items())


class BareAutomatic(Task):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        loss.backward()
        return loss


def test_a_bare_backward_is_refused_a_second_time_and_in_automatic_optimisation():
    with pytest.raises(lf.StepError, match="a second backward"):
        weights(TwiceOver, "backprop")
    with pytest.raises(lf.StepError, match=r"loss.backward\(\) was called"):
        weights(BareAutomatic, "pepita")
