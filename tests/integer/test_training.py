"""Training in integers through Lightning: the lowered step runs, checkpoints are exact, and what it cannot do is refused."""

import copy

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.errors import LightningFwdError, StepError
from lightning_fwd.integer import IntegerRule


def clusters(n: int = 256) -> TensorDataset:
    g = torch.Generator().manual_seed(3)
    y = torch.randint(0, 4, (n,), generator=g)
    return TensorDataset(torch.randn(4, 12, generator=g)[y] + 0.3 * torch.randn(n, 12, generator=g), y)


class Plain(L.LightningModule):
    def __init__(self, optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), loss=nn.functional.cross_entropy):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4))
        self.optimizer, self.loss, self.losses = optimizer, loss, []

    def training_step(self, batch, _):
        loss = self.loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, 4)]


def trainer(method=None, epochs: int = 4, **kwargs) -> L.Trainer:
    strategy = lf.ForwardOnlyStrategy(method or lf.Backprop(), integer=lf.Integer(), example_input=torch.zeros(2, 12))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(max_epochs=epochs, strategy=strategy, accelerator="cpu", **quiet | kwargs)


def loader() -> DataLoader:
    return DataLoader(clusters(), batch_size=32)


@pytest.mark.parametrize(
    "method",
    [lf.Backprop(), lf.LocalLoss(), lf.SparseUpdate(2), lf.DirectFeedback(), lf.ForwardForward()],
    ids=lambda m: type(m).__name__,
)
def test_the_loss_falls(method):
    model = Plain()
    trainer(method).fit(model, loader())
    assert sum(model.losses[-8:]) < 0.3 * sum(model.losses[:8])


@pytest.mark.parametrize(
    "method",
    [lf.Backprop(), lf.LocalLoss(), lf.DirectFeedback(), lf.Pepita(second_pass="tangent", feedback_scale=0.5)],
    ids=lambda m: type(m).__name__,
)
def test_a_step_goes_where_the_float_step_goes(method):
    """The change of every weight, against the float rule's gradient from the same weights: the same length and direction."""
    x, y = clusters(64).tensors
    changes = {}
    for name, rule in (("float", method), ("integer", IntegerRule(method, lf.Integer()))):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
        model = lf.rewrite(net, copy.deepcopy(rule), x)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        if name == "integer":
            model.method.follow(optimizer)
        before = {k: p.detach().clone() for k, p in net.named_parameters()}
        model.train()
        with model.step(y):
            model.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
        changes[name] = {k: (p.detach() - before[k]).flatten() for k, p in net.named_parameters()}
    for key, wanted in changes["float"].items():
        got = changes["integer"][key]
        assert float(got @ wanted / (got.norm() * wanted.norm())) > 0.97, key
        assert 0.9 < float(got.norm() / wanted.norm()) < 1.1, key


def test_weights_are_integers_of_sixteen_bits():
    model = Plain()
    run = trainer()
    run.fit(model, loader())
    rewritten = run.strategy.rewritten
    exponents = dict(rewritten.named_buffers())["_lfwd.integer.0/weight"].double()
    masters = rewritten.get_parameter("0.weight").double() * torch.exp2(exponents + 8)[:, None]
    assert torch.equal(masters, masters.round()) and masters.abs().max() <= 32768 + 128


def test_a_resumed_fit_has_the_same_bits(tmp_path):
    whole, first, second = Plain(), Plain(), Plain()
    trainer(epochs=4).fit(whole, loader())
    run = trainer(epochs=2)
    run.fit(first, loader())
    run.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}
    trainer(epochs=4).fit(second, loader(), ckpt_path=tmp_path / "half.ckpt")
    for a, b in zip(lf.unwrap(whole).parameters(), lf.unwrap(second).parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.losses[16:] == second.losses


def test_inference_is_the_float_net_before_and_the_integer_net_after():
    model, x = Plain(), clusters().tensors[0][:8]
    untouched = copy.deepcopy(model.net)
    rewritten = lf.rewrite(model.net, lf.ForwardOnlyStrategy(lf.Backprop(), integer=lf.Integer()).method, x).eval()
    assert torch.equal(rewritten(x), untouched.eval()(x))
    run = trainer()
    model = Plain()
    run.fit(model, loader())
    network = run.strategy.rewritten.eval()
    integer = network(x)
    close = network.original(x)
    assert not torch.equal(integer, close) and torch.allclose(integer, close, atol=0.25 * float(close.abs().max()))


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        ({"optimizer": torch.optim.Adam}, {}, "Adam cannot drive"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-4)}, {}, "weight_decay"),
        ({"loss": lambda z, y: nn.functional.cross_entropy(z, y, label_smoothing=0.1)}, {}, "gradient of the loss"),
        ({}, {"gradient_clip_val": 1.0}, "gradient_clip_val"),
        ({}, {"accumulate_grad_batches": 2}, "accumulate_grad_batches"),
    ],
)
def test_what_integers_cannot_do_is_refused(module, options, said):
    model = Plain(**module)
    before = copy.deepcopy(model.net.state_dict())
    with pytest.raises((StepError, LightningFwdError), match=said):
        trainer(**options).fit(model, loader())
    after = {k.removeprefix("net."): v for k, v in model.state_dict().items()}
    assert all(torch.equal(after[k], v) for k, v in before.items())
