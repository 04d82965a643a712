"""Numbers that forward reads from attributes are constants of the graph: another value is refused, not ignored."""

import numpy as np
import pytest
import torch
from method_table import Task, loader, tensors, trainer
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf


class Annealed(nn.Module):
    """A temperature, a drop rate and a flag, read in forward, by a method and by a property."""

    def __init__(self):
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(16, 12), nn.Dropout(0.1), nn.Linear(12, 4)
        self.input_shape, self.t, self.p, self.scaled, self.unread, self.calls = (16,), 1.5, 0.1, True, 3, 0

    @property
    def factor(self):
        return 1 / self.t if self.scaled else 1.0

    def hidden(self, x):
        return F.dropout(torch.relu(self.a(x)), self.p, self.training)

    def forward(self, x):
        return self.b(self.drop(self.hidden(x))) * self.factor


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Annealed()
        self.input_shape = (16,)

    def forward(self, x):
        return self.body(x)


class Anneals(Task):
    what, value = "t", 2.0

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            setattr(getattr(self.network, "body", self.network), self.what, self.value)


@pytest.mark.parametrize("net", [Annealed, Inside])
@pytest.mark.parametrize(("what", "to"), [("t", 2.0), ("p", 0.5), ("scaled", False)])
def test_a_change_is_refused_before_a_step(net, what, to):
    module = type("Own", (Anneals,), {"what": what, "value": to})(net())
    path = f"body.{what}" if net is Inside else what
    with pytest.raises(lf.StepError, match=rf"{path} of {net.__name__} was .* and is now {to}(.|\n)*buffer"):
        trainer("backprop", max_epochs=2).fit(module, loader(module.network))
    assert getattr(getattr(lf.unwrap(module).network, "body", module.network), what) == to  # set through what stands in its place
    weights = {name: t for name, t in tensors(lf.unwrap(module)).items() if "network" in name}
    assert weights and module.trainer.global_step == len(loader(module.network))


def test_it_is_refused_in_inference_too_and_what_is_not_read_may_change():
    net, x = Annealed(), torch.randn(4, 16)
    model = lf.rewrite(net, "backprop", x).eval()
    net.unread, net.calls, net.drop.p = 4, 7, 0.3
    torch.testing.assert_close(model(x), net(x))
    net.t = 3.0
    with pytest.raises(lf.StepError, match="t of Annealed was 1.5"):
        model(x)
    net.t = 1.5
    torch.testing.assert_close(model(x), net(x))


class Buffered(nn.Module):
    def __init__(self, direct):
        super().__init__()
        self.a, self.direct = nn.Linear(16, 4), direct
        self.register_buffer("t", torch.tensor(1.0))

    def forward(self, x):
        return self.a(x) / self.t if self.direct else self.a(x) * (1 / self.t)


def test_a_buffer_may_change_where_the_graph_reads_it():
    x = torch.randn(4, 16)
    for direct in (True, False):
        net = Buffered(direct)
        model = lf.rewrite(net, "pepita", x).eval()
        net.load_state_dict(net.state_dict())  # written, and the same
        torch.testing.assert_close(model(x), net(x))
        net.t.fill_(4.0)
        if direct:
            torch.testing.assert_close(model(x), net(x))
        else:
            with pytest.raises(lf.StepError, match=r"t of Buffered was tensor\(1\.\) .* now tensor\(4\.\)"):
                model(x)
            net.t = torch.tensor(1.0)  # another tensor of the same value
            torch.testing.assert_close(model(x), net(x))
            net.t = torch.tensor(5.0)
            with pytest.raises(lf.StepError, match=r"now tensor\(5\.\)"):
                model(x)


@pytest.mark.parametrize("value", [0.3, np.float64(0.3), (0.3, 2)])
def test_what_is_the_same_is_no_change(value):
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.held = nn.Linear(16, 4), value
            self.register_buffer("t", torch.tensor(0.2).mul_(1.5))
            self.register_buffer("again", self.t)

        def forward(self, x):
            factor = self.held[0] if isinstance(self.held, tuple) else self.held
            return self.a(x) * (factor / self.t)

    net, x = Holds(), torch.randn(4, 16)
    model = lf.rewrite(net, "backprop", x).eval()
    net.held = type(value)(value)
    model.to(torch.bfloat16).load_state_dict(model.state_dict())
    assert model(x.bfloat16()).shape == (4, 4)
    net.held = 0.9
    with pytest.raises(lf.StepError, match="held of Holds"):
        model(x.bfloat16())


class Watched(Task):
    """Its own network, whose forward looks at counters that change nothing it computes."""

    input_shape = (16,)

    def __init__(self):
        super().__init__(nn.Linear(16, 4))
        self.extra, self.calls, self.verbose, self.metric = nn.Linear(4, 4), 0, False, Annealed()

    def forward(self, x):
        if self.global_step % 3 == 2 or self.verbose:
            self.log("extra", 1.0)
        self.calls = self.calls if self.verbose else 0
        return self.extra(torch.relu(self.network(x)))

    def on_train_batch_end(self, *args):
        self.metric.t += 1  # of a child that forward does not call

    def on_validation_start(self):
        self.verbose = True


@pytest.mark.parametrize("rule", ["backprop", "local_loss"])
def test_counters_that_change_nothing_are_no_matter(rule):
    module = Watched()
    trainer(rule, max_epochs=2).fit(module, loader(module), loader(module))
    assert module.trainer.global_step == 2 * len(loader(module))


def test_what_begins_to_matter_is_refused():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.epoch = nn.Linear(16, 4), 0

        def forward(self, x):
            return self.a(x) * (2.0 if self.epoch > 3 else 1.0)

    net, x = Late(), torch.randn(4, 16)
    model = lf.rewrite(net, "backprop", x).eval()
    for net.epoch in range(4):
        torch.testing.assert_close(model(x), net(x))
    net.epoch = 4
    with pytest.raises(lf.StepError, match="epoch of Late was 3"):
        model(x)
