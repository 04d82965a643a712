"""The three lines at the top of the README, run as they stand: by every strategy name, and their checkpoints where the library is not
there."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fwd import METHODS, ForwardOnlyStrategy

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class YourLightningModule(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.net[1].num_batches_tracked += 1  # pretrained: some rules refuse a network that looks untrained

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUICKSTART = next(block for block in BLOCKS if 'Trainer(strategy="' in block)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The README's first block, run as it stands but for the name of the strategy: one checkpoint per learning rule."""
    folder = tmp_path_factory.mktemp("quickstart")
    x, labels = torch.randn(24, 16), torch.arange(24) % 3
    for name in METHODS:
        block, count = re.subn(r'strategy="\w+"', f'strategy="{name}"', QUICKSTART)
        assert count == 1
        block = block.replace("L.Trainer(", "Trainer(")
        scope = {
            "Trainer": partial(L.Trainer, max_epochs=1, logger=False, default_root_dir=folder / name, accelerator="cpu",
            enable_progress_bar=False),
            "YourLightningModule": YourLightningModule, "your_data": DataLoader(TensorDataset(x, labels), batch_size=6),
        }  # fmt: skip
        exec(compile(block, "README.md", "exec"), scope)
        assert isinstance(scope["trainer"].strategy, ForwardOnlyStrategy) and scope["trainer"].global_step == 4
        scope["trainer"].save_checkpoint(folder / f"{name}.ckpt")
    return folder


def test_quickstart_trains_by_every_strategy_name(checkpoints):
    plain = YourLightningModule()
    for name in METHODS:
        state = torch.load(checkpoints / f"{name}.ckpt", weights_only=True)["state_dict"]
        plain.load_state_dict(state)
    assert set(re.findall(r"or: ([\w, ]+)", QUICKSTART)[0].split(", ")) <= set(METHODS)


def test_quickstart_s_checkpoints_load_where_the_library_is_not_imported(checkpoints):
    script = f"""
import pathlib, sys, torch
for file in sorted(pathlib.Path({str(checkpoints)!r}).glob("*.ckpt")):
    state = torch.load(file, weights_only=True)["state_dict"]
    assert list(state) == {list(YourLightningModule().state_dict())}, file
    print(file.stem)
assert not any(name.split(".")[0] in ("lightning_fwd", "lightning") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(METHODS)
