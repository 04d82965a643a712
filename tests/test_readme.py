"""The README's code runs as it stands, and the commands it names exist."""

import re
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_fwd.cli import _COMMANDS, main
from lightning_fwd.models import MLP

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class YourLightningModule(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = MLP(in_features=16, hidden=(8,), num_classes=3)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_every_python_block_runs(tmp_path, monkeypatch):
    x, labels = torch.randn(12, 16), torch.arange(12) % 3
    quick = partial(
        L.Trainer, max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, accelerator="cpu", barebones=False
    )  # fmt: skip
    monkeypatch.setattr(L, "Trainer", quick)
    monkeypatch.chdir(tmp_path)
    scope = {
        "torch": torch, "YourLightningModule": YourLightningModule, "your_data": DataLoader(TensorDataset(x, labels), batch_size=4),
        "net": MLP(in_features=16, hidden=(8,), num_classes=3), "example_input": x[:2], "x": x, "labels": labels,
    }  # fmt: skip
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)
    assert isinstance(scope["net"], MLP)
    scope["trainer"].fit(YourLightningModule(), scope["your_data"])  # the trainer of the block with settings


@pytest.mark.parametrize("command", sorted(set(re.findall(r"lightning-fwd (\w+)", README))))
def test_every_command_exists(command):
    if command in _COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    else:
        assert command in ("fit", "validate", "test", "predict", "export")


@pytest.mark.parametrize("recipe", sorted(set(re.findall(r"recipes/[\w/]+\.yaml", README))))
def test_every_recipe_exists(recipe):
    assert (ROOT / recipe).is_file()
