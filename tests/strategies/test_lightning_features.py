"""What users of Lightning expect of a strategy, for rules with gradients of the loss and rules with losses of their own."""

import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from method_table import NETS, Task, clusters, loader, tensors, trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.models import MLP

RULES = {
    "backprop": lf.Backprop,
    "sparse_update": lambda: lf.SparseUpdate(2),
    "forward_forward": lf.ForwardForward,
    "local_loss": lambda: lf.LocalLoss(batch_norm="freeze"),
    "pepita": lf.Pepita,
    "pepita recompute": lambda: lf.Pepita(recompute=True),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def task(kind="mlp", cls=Task, **settings):
    torch.manual_seed(1)
    return cls(NETS[kind](), **settings)


def moved(module, before):
    return [n for n, t in tensors(module).items() if n in before and not torch.equal(t, before[n])]


# ---- gradients


@pytest.mark.parametrize("rule", [r for r in RULES if r != "forward_forward"])  # whose negatives are drawn per step
def test_accumulated_batches_equal_the_large_one(rule):
    data = clusters(count=32)
    grads = []
    for size, accumulate in ((32, 1), (8, 4)):
        module = task(momentum=0.0)
        batches = DataLoader(list(zip(*data, strict=True)), size)
        before = tensors(module)
        trainer(RULES[rule](), accumulate_grad_batches=accumulate).fit(module, batches)
        after = tensors(lf.unwrap(module))
        grads.append({n: after[n] - before[n] for n in before})
        assert any(g.abs().max() > 0 for g in grads[-1].values())
    for name in grads[0]:
        assert torch.allclose(grads[0][name], grads[1][name], atol=1e-6), name


@every_rule
def test_gradients_are_clipped(rule):
    class Watch(Task):
        def configure_gradient_clipping(self, optimizer, *args, **kwargs):
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.norm = torch.stack([g.norm() for g in gradients]).norm()

    module = task(cls=Watch)
    trainer(RULES[rule](), gradient_clip_val=1e-3, max_steps=1).fit(module, loader())
    assert 0.5e-3 < module.norm <= 1.01e-3


@every_rule
def test_schedulers_step(rule):
    class Scheduled(Task):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)]

    module = task(cls=Scheduled)
    run = trainer(RULES[rule](), max_epochs=2)
    run.fit(module, loader())
    assert all(group["lr"] == pytest.approx(0.05 * 0.01) for group in run.optimizers[0].param_groups)
    assert run.global_step == 12


S = torch.optim.lr_scheduler
SCHEDULERS = {
    "OneCycle": lambda o: S.OneCycleLR(o, 0.1, total_steps=20),
    "Lambda": lambda o: S.LambdaLR(o, lambda step: 0.5**step),
    "warm-up": lambda o: S.LinearLR(o, 0.01, total_iters=8),
    "cosine, restarted": lambda o: S.CosineAnnealingWarmRestarts(o, 5),
    "cyclic": lambda o: S.CyclicLR(o, 0.01, 0.1),
    "sequence": lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1, 3), S.CosineAnnealingLR(o, 8)], [3]),
}


class Grouped(Task):
    """Named parameters in two groups, the head's with a rate of its own, under a scheduler."""

    def __init__(self, network, make=torch.optim.SGD, schedule=SCHEDULERS["warm-up"]):
        super().__init__(network)
        self.make, self.schedule = make, schedule

    def configure_optimizers(self):
        named = list(self.network.named_parameters())
        groups = [
            {"params": [(n, p) for n, p in named if n.startswith("fc")]},
            {"params": [(n, p) for n, p in named if n.startswith("classifier")], "lr": 0.2},
        ]
        optimizer = self.make(groups, lr=0.02)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"}}


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_inserted_heads_follow_the_rate_of_the_head(schedule):
    rates = []
    for rule in ("backprop", "local_loss"):
        module = task(cls=Grouped, schedule=SCHEDULERS[schedule])
        run = trainer(rule)
        run.fit(module, loader())
        groups = run.optimizers[0].param_groups
        rates.append([group["lr"] for group in groups])
    heads = dict(module.network.inserted.named_parameters())
    assert rates[0] == rates[1] and heads and {id(p) for p in heads.values()} < {id(p) for p in groups[1]["params"]}
    assert {f"_lfwd.{name}" for name in heads} < set(groups[1]["param_names"])


@pytest.mark.parametrize("name", ["Adagrad", "Adadelta", "AdamW", "ASGD", "NAdam", "RMSprop", "Rprop"])
def test_inserted_heads_learn_under_every_kind_of_optimizer(name):
    module = task(cls=Grouped, make=getattr(torch.optim, name))
    run = trainer("local_loss", max_steps=1)
    run.fit(module, loader())
    assert all(parameter in run.optimizers[0].state for parameter in module.network.inserted.parameters())


# ---- precision


@every_rule
@pytest.mark.parametrize("kind", ["mlp", "residual"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(rule, kind, precision):
    module = task(kind)
    before = tensors(module)
    run = trainer(RULES[rule](), precision=precision, max_epochs=2)
    data = loader(module.network)
    run.fit(module, data, data)
    assert torch.stack(module.losses).isfinite().all()
    module = lf.unwrap(module)
    expected = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {p.dtype for p in module.parameters()} == {expected}
    assert moved(module.float(), before)
    trainer("local_loss", precision=precision).fit(module, data)  # another rule, on a model already converted


def test_mixed_precision_follows_full_precision():
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        module = task()
        trainer(lf.Pepita(recompute=True), precision=precision, max_epochs=3).fit(module, loader())
        losses.append(torch.stack(module.losses).float())
    assert torch.allclose(*losses, atol=0.05) and not torch.equal(*losses)


# ---- callbacks and loops


@every_rule
def test_callbacks_and_loggers(rule, tmp_path):
    module = task("residual")
    data = loader(module.network)
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=2)
    callbacks = [best, EarlyStopping("val_loss", min_delta=100.0, patience=1), WeightAveraging()]
    logger = CSVLogger(tmp_path)
    run = trainer(RULES[rule](), max_epochs=5, callbacks=callbacks, logger=logger, enable_checkpointing=True)
    run.fit(module, data, data)
    assert run.current_epoch == 2  # stopped early
    assert best.best_model_path and (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().count("val_loss") == 1
    state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert state.keys() == task("residual").state_dict().keys()


@pytest.mark.parametrize("rule", ["local_loss", "pepita"])
def test_averaged_weights_resume(rule, tmp_path):
    """With inserted heads too the averages after a resume are those of a run in one go."""
    averages = []
    for resume in (None, tmp_path / "epoch=1-step=12.ckpt"):
        module = task()
        each = ModelCheckpoint(tmp_path, save_top_k=-1)
        run = trainer(RULES[rule](), max_epochs=4, callbacks=[WeightAveraging(), each], enable_checkpointing=True)
        run.fit(module, loader(), ckpt_path=resume)
        averages.append(module.network.state_dict())
    assert all(torch.equal(averages[0][k], averages[1][k]) for k in averages[0])


def test_stochastic_weight_averaging_and_learning_rate_finder():
    module = task()
    run = trainer("pepita", max_epochs=4, callbacks=[StochasticWeightAveraging(0.01, swa_epoch_start=2)])
    run.fit(module, loader())
    module = task()
    before = tensors(module)
    finder = LearningRateFinder(num_training_steps=8, update_attr=False)
    trainer("local_loss", max_steps=0, callbacks=[finder], enable_checkpointing=True).fit(module, loader())
    assert len(finder.optimal_lr.results["loss"]) >= 5
    assert not moved(lf.unwrap(module), before), "the finder must give the weights back"


@pytest.mark.parametrize(
    "method", [lf.Pepita(), lf.Pepita(batch_norm="fold"), lf.SparseUpdate(), lf.ForwardForward(), lf.Statistics()], ids=repr
)
def test_stochastic_weight_averaging_leaves_statistics_that_a_rule_keeps(method):
    torch.manual_seed(1)
    states = []
    for callbacks in ([], [StochasticWeightAveraging(1e-9, swa_epoch_start=1, annealing_epochs=1)]):
        module = task("residual", lr=0.0)
        for norm in (module.network.bn1, module.network.bn2):
            norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        trainer(method, max_epochs=2, callbacks=callbacks).fit(module, loader(module.network))
        states.append(tensors(lf.unwrap(module)))
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-6) for name in states[0])
    assert module.network.bn1.momentum == 0.1


@pytest.mark.parametrize("method", ["backprop", "local_loss", lf.ForwardForward(batch_norm="train")], ids=repr)
def test_stochastic_weight_averaging_collects_statistics_anew_where_norms_train(method):
    states = []
    for rule in ("auto", method):
        module = task("residual", lr=0.0)
        swa = StochasticWeightAveraging(1e-9, swa_epoch_start=1, annealing_epochs=1)
        trainer(rule, max_epochs=2, callbacks=[swa]).fit(module, loader(module.network))
        states.append(tensors(lf.unwrap(module)))
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-5) for name in states[0] if "running" in name)


@every_rule
def test_evaluation_before_between_and_after(rule):
    module = task("residual")
    data = loader(module.network)
    plain = trainer("auto").validate(module, data, verbose=False)[0]["val_loss"]
    run = trainer(RULES[rule]())
    assert run.validate(module, data, verbose=False)[0]["val_loss"] == pytest.approx(plain, rel=1e-5)
    run.fit(module, data, data)
    after = run.test(module, data, verbose=False)[0]["val_loss"]
    predicted = torch.cat(run.predict(module, data))
    assert predicted.shape == (96, 4)
    lf.unwrap(module)
    assert trainer("auto").test(module, data, verbose=False)[0]["val_loss"] == pytest.approx(after, rel=1e-5)


def test_two_fits_go_on_and_another_rule_takes_over():
    module = task("residual")
    data = loader(module.network)
    trainer("local_loss").fit(module, data)
    first = module.network
    trainer("local_loss").fit(module, data)
    assert module.network is first and int(first.inserted.counter) == 12
    trainer("pepita").fit(module, data)
    assert module.network is not first and isinstance(module.network.method, lf.Pepita)
    for rule in ("pepita", "local_loss"):
        trainer(rule).fit(module, data)
        before = tensors(module.network.original)
        with pytest.raises(lf.StepError, match=r"stays rewritten after fit(.|\n)*lf.unwrap\(module\) first"):
            trainer("auto").fit(module, data)  # plain training of a rewritten model would silently learn nothing
    lf.unwrap(module)
    assert not moved(module.network, before)
    trainer("auto").fit(module, data)
    assert moved(module.network, before)


@pytest.mark.parametrize("where", ["child", "indexed", "inside", "whole"])
def test_a_head_replaced_after_a_fit_learns_in_the_next(where):
    def net():
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Flatten(), nn.Sequential(nn.Linear(6, 4))
        )

    module = OwnLayers() if where == "whole" else Task(net() if where != "child" else NETS["conv"]())
    data, head = loader(NETS["conv"]()), nn.Linear(6, 4)
    trainer("local_loss").fit(module, data)
    if where == "child":
        head = module.network.classifier = nn.Linear(8, 4)
        assert module.network.classifier is head
    elif where == "indexed":
        module.network[2] = head
    elif where == "inside":
        module.network[2][0] = head
    else:
        module.head = head
    before = head.weight.detach().clone()
    if where != "inside":
        with pytest.raises(lf.StepError, match="replaced after the rewrite(.|\n)*lf.unwrap"):
            module(next(iter(data))[0])
    with pytest.warns(UserWarning, match="rewritten anew"):
        trainer("local_loss").fit(module, data)
    assert not torch.equal(head.weight, before)
    assert any(m is head for m in lf.unwrap(module).modules())


def test_modules_that_the_network_does_not_call_may_be_replaced():
    class Measuring(OwnLayers):
        def setup(self, stage):
            self.measure = nn.CrossEntropyLoss()

    module, data = Measuring(), loader(NETS["conv"]())
    for _ in range(2):
        trainer("local_loss").fit(module, data, data)
    assert lf.strategies.installed(module).inserted.counter == 12


def test_a_sequential_network_is_indexed_as_before():
    class Indexing(Task):
        def configure_optimizers(self):
            assert len(self.network) == 3 and [type(layer) for layer in self.network] == [nn.Linear, nn.ReLU, nn.Linear]
            return torch.optim.SGD([{"params": self.network[:2].parameters()}, {"params": self.network[-1].parameters()}], 0.1)

    module = Indexing(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)))
    before = tensors(module)
    trainer("local_loss").fit(module, loader())
    assert moved(module, before) and module.network
    with pytest.raises(TypeError, match="OwnLayers"):
        len(lf.rewrite(OwnLayers(), "backprop", torch.zeros(2, 1, 8, 8)))


# ---- kinds of LightningModules


class OwnLayers(Task):
    """Layers directly on the LightningModule."""

    def __init__(self, _network=None, **settings):
        super().__init__(nn.Identity(), **settings)
        self.conv, self.bn = nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, 0.9)


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


@pytest.mark.parametrize("rule", ["backprop", *(r for r in lf.METHODS if r not in ("backprop", "statistics"))])
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
        x, y = batch
        logits = self(x)
        logits /= 2.0
        logits[:, 3] = -1e4
        return F.cross_entropy(logits, y % 3)


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


@pytest.mark.parametrize("kind", ["child", "whole"])
@every_rule
def test_a_trained_module_saves_as_a_plain_one(rule, kind, tmp_path):
    cls, make = (OwnLayers, "conv") if kind == "whole" else (Task, "residual")
    plain, module = (task(make, cls=cls) for _ in range(2))
    trainer(RULES[rule]()).fit(module, loader(NETS[make]()))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    module.load_state_dict(state)
    with pytest.raises(lf.RewriteError, match=r"lf.unwrap\(module\)"):
        torch.save(module, tmp_path / "module.pt")
    torch.save(module, tmp_path / "module.pt", pickle_protocol=4)
    assert torch.load(tmp_path / "module.pt", weights_only=False).state_dict().keys() == state.keys()
    torch.save(lf.unwrap(module), tmp_path / "module.pt")
    assert all(torch.equal(value, state[key]) for key, value in lf.unwrap(module).state_dict().items())


class Late(Task):
    def __init__(self):
        super().__init__(None)

    def configure_model(self):
        if self.network is None:
            torch.manual_seed(1)
            self.network = NETS["residual"]()


@every_rule
def test_configure_model(rule, tmp_path):
    data = loader(NETS["residual"]())
    module = Late()
    run = trainer(RULES[rule]())
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "late.ckpt")
    early = task("residual")
    trainer(RULES[rule]()).fit(early, data)
    resumed = Late()
    trainer(RULES[rule](), max_epochs=1).fit(resumed, data, ckpt_path=tmp_path / "late.ckpt")
    for other in (early, resumed):
        pairs = zip(module.network.state_dict().items(), other.network.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(u, v) for (a, u), (b, v) in pairs if "dropout" not in a) or rule != "backprop"


class Manual(Task):
    def __init__(self, network, **settings):
        super().__init__(network, **settings)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss)
        optimizer.step()
        self.losses.append(loss.detach())


@every_rule
def test_manual_optimisation_equals_automatic(rule):
    states = []
    for cls in (Task, Manual):
        module = task(cls=cls)
        run = trainer(RULES[rule]())
        run.fit(module, loader())
        assert run.global_step == 6
        states.append(module.network.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


class SecondOrder(Task):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.network.parameters(), 0.1, max_iter=3)


def test_lbfgs_follows_the_gradient_of_the_loss_and_nothing_else():
    losses = []
    for strategy in ("auto", "backprop"):
        module = task(cls=SecondOrder)
        trainer(strategy).fit(module, loader())
        losses.append(torch.stack(module.losses))
    assert torch.equal(*losses) and len(losses[0]) > 6  # the closure runs several times a step
    module = task(cls=SecondOrder)
    with pytest.raises(lf.LightningFwdError, match="LocalLoss cannot be trained by LBFGS"):
        trainer("local_loss").fit(module, loader())
    assert not isinstance(module.network, lf.RewrittenModel)


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


def test_data_of_the_module_itself_and_example_input_array():
    class WithData(Task):
        def train_dataloader(self):
            return loader()

    trainer("pepita").fit(task(cls=WithData))

    class WithExample(Task):
        example_input_array = torch.zeros(1, 16)

    module = task(cls=WithExample)
    trainer("local_loss").fit(module, loader())
    assert module.network.input_shape == (16,)


class TrainingData(L.LightningDataModule):
    def train_dataloader(self):
        return loader()


class RandomSplit(L.LightningDataModule):
    def setup(self, stage):
        x, y = clusters()
        self.part, _ = torch.utils.data.random_split(TensorDataset(x, y), [64, 32])
        self.order = (random.random(), np.random.rand())

    def train_dataloader(self):
        return DataLoader(self.part, 16)


class SplittingItself(Task):
    setup, train_dataloader = RandomSplit.setup, RandomSplit.train_dataloader


@pytest.mark.parametrize("who", ["data module", "module"])
def test_a_random_split_is_that_of_plain_training(who):
    splits = []
    for strategy in ("auto", "local_loss"):
        module, data = (Task(NETS["mlp"]()), RandomSplit()) if who == "data module" else (SplittingItself(NETS["mlp"]()), None)
        L.seed_everything(3, verbose=False)
        trainer(strategy).fit(module, datamodule=data)
        splits.append(((data or module).part.indices, (data or module).order))
    assert splits[0] == splits[1]


class Counted(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(*clusters(), strict=True))

    def __len__(self):
        return 96


def test_an_iterable_dataset_that_knows_its_length():
    module = task()
    before = tensors(module)
    trainer("local_loss").fit(module, DataLoader(Counted(), 16))
    assert moved(lf.unwrap(module), before)


def test_loaders_after_a_data_module_that_has_none_of_them():
    module, run = task(), trainer("local_loss")
    run.fit(module, TrainingData())
    assert run.test(module, loader(), verbose=False) and len(run.predict(module, loader())) == 6
    lf.unwrap(module)
    assert len(run.predict(module, loader())) == 6  # rewritten again, from this call's data


def test_the_sampler_and_the_generator_are_not_disturbed():
    seen = []

    class Watch(Task):
        def training_step(self, batch, batch_idx):
            seen[-1].append(batch[0])
            return super().training_step(batch, batch_idx)

    for strategy in ("auto", "backprop"):
        seen.append([])
        torch.manual_seed(3)
        x, y = clusters()
        data = DataLoader(list(zip(x, y, strict=True)), 16, shuffle=True)
        module = Watch(NETS["mlp"]())
        torch.manual_seed(4)
        trainer(strategy, max_epochs=2).fit(module, data)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_backprop_is_plain_training_to_the_bit():
    states = []
    for strategy in ("auto", "backprop"):
        module = task("residual")
        torch.manual_seed(4)
        trainer(strategy, max_epochs=2).fit(module, loader(module.network))
        states.append(lf.unwrap(module).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_strategy_sits_in_a_plain_trainer_signature():
    assert isinstance(L.Trainer(strategy="pepita", accelerator="cpu", logger=False).strategy, lf.ForwardOnlyStrategy)
