"""LightningModules of every kind: layers on the module itself, ahead of the network, outside it; dict batches; several forward calls."""

import pytest
import torch
from method_table import NETS, WITHOUT_GRADIENT, Task, clusters, loader, tensors, trainer
from rules_in_lightning import RULES, OwnLayers, every_rule, moved, task
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_fwd as lf
from lightning_fwd.models import MLP


@pytest.mark.parametrize("rule", [*RULES, "pepita folded"])
def test_layers_directly_on_the_module(rule, tmp_path):
    method = RULES.get(rule, lambda: lf.Pepita(batch_norm="fold"))
    data = loader(NETS["conv"]())
    module = task(cls=OwnLayers)
    keys, before = module.state_dict().keys(), tensors(module)
    run = trainer(method(), max_epochs=2)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "own.ckpt")
    saved = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == keys
    resumed = task(cls=OwnLayers)
    trainer(method(), max_epochs=3).fit(resumed, data, ckpt_path=tmp_path / "own.ckpt")
    lf.unwrap(module)
    assert moved(module, before)
    assert all(torch.allclose(v, saved["state_dict"][k], atol=1e-6) for k, v in module.state_dict().items())
    module.load_state_dict(saved["state_dict"])
    straight = task(cls=OwnLayers)
    trainer(method(), max_epochs=3).fit(straight, data)
    lf.unwrap(straight), lf.unwrap(resumed)
    for name, value in straight.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-5), name


class Temperature(Task):
    """A trainable parameter beside the network."""

    def __init__(self, network, **settings):
        super().__init__(network, **settings)
        self.temperature = nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.network(x) / self.temperature, y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class FrontEnd(Task):
    """A layer that learns ahead of the network."""

    def __init__(self, network, **settings):
        super().__init__(network, **settings)
        self.front = nn.Linear(16, 16)

    def forward(self, x):
        return self.network(torch.tanh(self.front(x)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


@pytest.mark.parametrize("rule", ["backprop", *(r for r in lf.METHODS if r not in ("backprop", *WITHOUT_GRADIENT))])
def test_a_layer_ahead_of_the_network_learns_or_is_refused(rule):
    module, run = task(cls=FrontEnd), trainer(lf.ForwardOnlyStrategy(rule, module="network"))
    if rule == "backprop":
        plain = task(cls=FrontEnd)
        trainer("auto").fit(plain, loader())
        run.fit(module, loader())
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain.parameters(), lf.unwrap(module).parameters(), strict=True))
    else:
        before = tensors(module)
        with pytest.raises(lf.StepError, match="no error on into the input"):
            run.fit(module, loader())
        assert not moved(lf.unwrap(module), before)
        module.front.requires_grad_(False)
        trainer(lf.ForwardOnlyStrategy(rule, module="network")).fit(module, loader())


class WritesIntoLogits(Task):
    def training_step(self, batch, batch_idx):
        x, y = batch[0], lf.set_labels(batch[1] % 3)
        logits = self(x)
        logits /= 2.0
        logits[:, 3] = -1e4
        return F.cross_entropy(logits, y)


@every_rule
def test_logits_may_be_written_into(rule):
    losses = []
    for cls in (Task, WritesIntoLogits):
        module = task(cls=cls)
        before = tensors(module)
        trainer(RULES[rule]()).fit(module, loader())
        losses.append(module.losses)
        assert moved(lf.unwrap(module), before)


class KeepsNorms(NETS["residual"]):
    """Holds its batch norms in eval mode, as fine-tuning recipes do."""

    def train(self, mode=True):
        super().train(mode)
        self.bn1.eval(), self.bn2.eval()
        return self


@pytest.mark.parametrize("rule", ["auto", "backprop", "local_loss", lf.ForwardForward(batch_norm="train"), "sparse_training"], ids=str)
@pytest.mark.parametrize("by", ["mode", "train"])
def test_norms_that_the_user_keeps_in_eval_mode_stay_in_it(rule, by):
    torch.manual_seed(1)
    module = Task(KeepsNorms() if by == "train" else NETS["residual"]())
    module.network.bn1.eval(), module.network.bn2.eval()
    data = loader(module.network)
    run = trainer(rule, max_epochs=2)
    run.fit(module, data, data)
    if by == "train":
        module.train()
        run.fit(module, data, data)
    network = lf.unwrap(module).network
    assert not network.bn1.training and not network.bn2.training and network.conv1.training
    assert not network.bn1.running_mean.any() and not network.bn2.running_mean.any()


@every_rule
def test_a_parameter_outside_the_network_learns_by_backpropagation(rule):
    module = task(cls=Temperature)
    strategy = lf.ForwardOnlyStrategy(RULES[rule](), module="network")
    before = tensors(module)
    trainer(strategy).fit(module, loader())
    assert {"temperature", "network.classifier.weight"} <= set(moved(lf.unwrap(module), before))


def test_a_network_called_in_part_is_an_error_that_names_the_option():
    module = task(cls=Temperature)
    with pytest.raises(lf.StepError, match="module="):
        trainer("pepita").fit(module, loader())


class DictBatches(Task):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["image"]), batch["label"])


@every_rule
def test_dict_batches(rule):
    x, y = clusters()
    data = DataLoader([{"label": b, "image": a} for a, b in zip(x, y, strict=True)], 16)
    module = task(cls=DictBatches)
    before = tensors(module)
    trainer(RULES[rule]()).fit(module, data)
    assert moved(lf.unwrap(module), before)


class TwoViews(Task):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return (F.cross_entropy(self(x), y) + F.cross_entropy(self(x + 0.1), y)) / 2


@every_rule
def test_two_forward_calls_in_one_step(rule):
    module = task(cls=TwoViews)
    before = tensors(module)
    trainer(RULES[rule](), max_epochs=1).fit(module, loader())
    assert not module.network.pending and int(module.network.inserted.counter) == 12
    assert moved(lf.unwrap(module), before)


def test_two_forward_calls_are_the_sum_of_both():
    net = MLP(16, (12,), 4)
    x, y = clusters(count=16)
    model = lf.rewrite(net, lf.Backprop(), x).train()
    with model.step(y):
        loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(2 * x), y)
    model.backward(loss)
    expected = torch.autograd.grad(F.cross_entropy(net(x), y) + F.cross_entropy(net(2 * x), y), list(net.parameters()))
    assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(net.parameters(), expected, strict=True))


class Normalising(Task):
    """forward feeds the network another shape than it gets."""

    def forward(self, x):
        return self.network((x.flatten(1)[:, :16] - 0.1) / 2)


@every_rule
def test_a_forward_that_reshapes_its_input(rule):
    module = task(cls=Normalising)
    before = tensors(module)
    trainer(RULES[rule]()).fit(module, loader(NETS["conv"]()))
    assert moved(lf.unwrap(module), before)
