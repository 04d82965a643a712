"""Every learning rule as a drop-in Lightning strategy, over the table of methods."""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from method_table import CASE_IDS, CASES, NETS, Task, clusters, loader, named_rows, tensors, trainer

import lightning_fwd as lf

every_case = pytest.mark.parametrize(("row", "kind"), CASES, ids=CASE_IDS)


def task(row, kind):
    torch.manual_seed(1)
    return Task(NETS[kind](), row.lr)


@every_case
def test_trains(row, kind):
    module = task(row, kind)
    before = tensors(module.network)
    trainer(row.method(), max_epochs=8, enable_checkpointing=False).fit(module, loader(module.network))
    first, last = torch.stack(module.losses[:6]).mean(), torch.stack(module.losses[-6:]).mean()
    if row.learns:
        assert last < 0.9 * first, f"loss {first:.3f} -> {last:.3f}"
    changed = [n for n, t in tensors(lf.unwrap(module).network).items() if not torch.equal(t, before[n])]
    assert changed if row.learns else all("running" in n for n in changed) and changed


@every_case
def test_resumes_bit_for_bit(row, kind, tmp_path):
    data = loader(NETS[kind]())
    straight = task(row, kind)
    seed_everything(0, verbose=False)
    trainer(row.method(), max_epochs=4).fit(straight, data)

    half = task(row, kind)
    seed_everything(0, verbose=False)
    first = trainer(row.method(), max_epochs=2, enable_checkpointing=True, default_root_dir=tmp_path)
    first.fit(half, data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    generator = torch.get_rng_state()

    resumed = task(row, kind)
    torch.set_rng_state(generator)
    trainer(row.method(), max_epochs=4).fit(resumed, data, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(torch.stack(resumed.losses), torch.stack(straight.losses[len(half.losses) :]))
    one, other = straight.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one), [k for k in one if not torch.equal(one[k], other[k])]


@pytest.mark.parametrize("name", lf.METHODS)
def test_an_unchanged_module_trains_by_name_and_its_checkpoint_is_the_plain_model_s(name, tmp_path):
    row = named_rows()[name]
    module = task(row, "conv")
    checkpoint = ModelCheckpoint(tmp_path, filename="last")
    runner = trainer(name, max_epochs=2, enable_checkpointing=True, callbacks=[checkpoint])
    runner.fit(module, loader(module.network), loader(module.network))
    assert isinstance(runner.strategy, lf.ForwardOnlyStrategy)
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert all(k in dict.fromkeys(task(row, "conv").state_dict()) for k in saved["state_dict"])
    x, _ = clusters(module.network.original, 8)
    module = lf.unwrap(module).eval()
    torch.save({"x": x, "logits": module(x).detach()}, tmp_path / "expected.pt")
    script = f"""
import sys, torch
from lightning_fwd_free import Net
state = torch.load(r"{checkpoint.best_model_path}", weights_only=True)["state_dict"]
net = Net().eval()
net.load_state_dict({{k.removeprefix("network."): v for k, v in state.items()}})
expected = torch.load(r"{tmp_path / "expected.pt"}", weights_only=True)
assert torch.allclose(net(expected["x"]), expected["logits"], atol=1e-5)
assert not any(name.split(".")[0] in ("lightning_fwd", "lightning") for name in sys.modules)
"""
    (tmp_path / "lightning_fwd_free.py").write_text(PLAIN_NET)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PLAIN_NET = """
from torch import nn
def stage(i, o, stride):
    return nn.Sequential()
class Net(nn.Sequential):
    def __init__(self):
        super().__init__()
        for i, (a, b, s) in enumerate([(1, 6, 1), (6, 8, 2)], 1):
            part = nn.Sequential()
            part.add_module("conv", nn.Conv2d(a, b, 3, s, padding=1))
            part.add_module("bn", nn.BatchNorm2d(b))
            part.add_module("relu", nn.ReLU())
            self.add_module(f"stage{i}", part)
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(8, 4))
"""


@every_case
def test_is_deterministic_under_seed_everything(row, kind):
    results = []
    for _ in range(2):
        seed_everything(7, verbose=False)
        module = Task(NETS[kind](), row.lr)
        trainer(row.method(), max_epochs=1, limit_train_batches=3).fit(module, loader(module.network))
        results.append(module.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
