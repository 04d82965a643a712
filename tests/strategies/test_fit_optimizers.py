"""Gradients, optimizers and schedules of Lightning under every rule."""

import pytest
import torch
from method_table import Task, clusters, loader, tensors, trainer
from rules_in_lightning import RULES, every_rule, task
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_fwd as lf


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
