"""Every learning rule as a drop-in Lightning strategy, over the table of methods."""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from method_table import CASE_IDS, HARDEST, NETS, Task, clusters, loader, named_rows, tensors, trainer

import lightning_fwd as lf

every_case = pytest.mark.parametrize(("row", "kind"), HARDEST, ids=CASE_IDS)


def task(row, kind):
    torch.manual_seed(1)
    return Task(NETS[kind](), row.lr)


@every_case
def test_trains(row, kind):
    module = task(row, kind)
    before = tensors(module.network)
    trainer(row.method(), max_epochs=8, enable_checkpointing=False).fit(module, loader(module.network))
    first, last = torch.stack(module.losses[:6]).mean(), torch.stack(module.losses[-6:]).mean()
    if row.falls_to is not None:
        assert last < row.falls_to * first, f"loss {first:.3f} -> {last:.3f}"
    changed = [n for n, t in tensors(lf.unwrap(module).network).items() if not torch.equal(t, before[n])]
    assert changed
    assert row.falls_to is not None or all(row.writes(n) for n in changed)


def pretrained_task(row, kind):
    module, generator = task(row, kind), torch.Generator().manual_seed(2)
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return module


@every_case
def test_resumes_bit_for_bit(row, kind, tmp_path):
    data = loader(NETS[kind]())
    straight = pretrained_task(row, kind)
    seed_everything(0, verbose=False)
    trainer(row.method(), max_epochs=4).fit(straight, data)

    half = pretrained_task(row, kind)
    seed_everything(0, verbose=False)
    first = trainer(row.method(), max_epochs=2, enable_checkpointing=True, default_root_dir=tmp_path)
    first.fit(half, data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    generator = torch.get_rng_state()

    resumed = pretrained_task(row, kind)
    torch.set_rng_state(generator)
    trainer(row.method(), max_epochs=4).fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(torch.stack(resumed.losses), torch.stack(straight.losses[len(half.losses) :]))
    one, other = straight.network.state_dict(), resumed.network.state_dict()  # what the rule inserted included
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one), [k for k in one if not torch.equal(one[k], other[k])]


@pytest.fixture(scope="module")
def trained_by_name(tmp_path_factory):
    """A checkpoint by each ``Trainer(strategy=NAME)``, and what its model predicts."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, row in named_rows().items():
        module = task(row, "conv")
        checkpoint = ModelCheckpoint(folder, filename=name)
        runner = trainer(name, max_epochs=2, enable_checkpointing=True, callbacks=[checkpoint])
        runner.fit(module, loader(module.network), loader(module.network))
        assert isinstance(runner.strategy, lf.ForwardOnlyStrategy)
        module = lf.unwrap(module).eval()
        x, _ = clusters(module.network, 8)
        torch.save({"x": x, "logits": module(x).detach()}, folder / f"{name}.expected")
    return folder


@pytest.mark.parametrize("name", lf.METHODS)
def test_checkpoint_holds_the_plain_module_s_keys(trained_by_name, name):
    saved = torch.load(trained_by_name / f"{name}.ckpt", weights_only=True)
    plain = task(named_rows()[name], "conv")
    assert saved["state_dict"].keys() == plain.state_dict().keys()
    plain.load_state_dict(saved["state_dict"])
    expected = torch.load(trained_by_name / f"{name}.expected", weights_only=True)
    assert torch.allclose(plain.eval()(expected["x"]), expected["logits"], atol=1e-6)


def test_checkpoints_load_in_a_process_without_the_library(trained_by_name):
    script = f"""
import pathlib, sys, torch
from torch import nn
class Net(nn.Module):  # written again by someone who knows the keys alone
    def __init__(self):
        super().__init__()
        for i, (a, b, stride) in enumerate([(1, 6, 1), (6, 8, 2)], 1):
            stage = nn.Sequential()
            stage.add_module("conv", nn.Conv2d(a, b, 3, stride, padding=1))
            stage.add_module("bn", nn.BatchNorm2d(b))
            setattr(self, f"stage{{i}}", stage)
        self.classifier = nn.Linear(8, 4)
    def forward(self, x):
        return self.classifier(self.stage2(self.stage1(x).relu()).relu().mean((2, 3)))
names = {list(lf.METHODS)}
for name in names:
    folder = pathlib.Path({str(trained_by_name)!r})
    state = torch.load(folder / f"{{name}}.ckpt", weights_only=True)["state_dict"]
    net = Net().eval()
    net.load_state_dict({{k.removeprefix("network."): v for k, v in state.items()}})
    expected = torch.load(folder / f"{{name}}.expected", weights_only=True)
    assert torch.allclose(net(expected["x"]), expected["logits"], atol=1e-5), name
assert not any(name.split(".")[0] in ("lightning_fwd", "lightning") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@every_case
def test_is_deterministic_under_seed_everything(row, kind):
    results = []
    for _ in range(2):
        seed_everything(7, verbose=False)
        module = Task(NETS[kind](), row.lr)
        trainer(row.method(), max_epochs=1, limit_train_batches=3).fit(module, loader(module.network))
        results.append(module.network.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
