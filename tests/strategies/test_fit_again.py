"""A module fitted, and fitted again: by another rule, with a layer replaced, saved as a plain one, configured late."""

import pytest
import torch
from method_table import NETS, Task, loader, tensors, trainer
from rules_in_lightning import RULES, OwnLayers, every_rule, moved, task
from torch import nn

import lightning_fwd as lf


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
