"""The kernel library as a shared object, small exported steps, and what the board tests need."""

import ctypes
import importlib
import os
import subprocess

import pytest
import torch
from torch import nn

pytest.importorskip("executorch", reason="needs the extra [export]")

from lightning_fwd_export.boards import missing_tools
from lightning_fwd_export.generate_c import CSRC
from lightning_fwd_export.host.runtime import compiler

import lightning_fwd as lf

export_module = importlib.import_module("lightning_fwd_export.export_step")


@pytest.fixture(scope="session")
def csrc(tmp_path_factory):
    """csrc/ built for the host with the undefined-behaviour sanitizer: any overflow or bad shift aborts."""
    library = tmp_path_factory.mktemp("csrc") / "lfwd.so"
    flags = "-std=c99 -O1 -g -fPIC -shared -Wall -Wextra -Werror -Wconversion -fsanitize=undefined -fno-sanitize-recover=all"
    subprocess.run([compiler("gcc"), *flags.split(), *map(str, sorted(CSRC.glob("*.c"))), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def emulator():
    """Skips where cross compiler or emulator are missing, except in CI."""
    if missing := missing_tools():
        message = f"not installed: {', '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


class TinyMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.relu1 = nn.Linear(20, 16), nn.ReLU()
        self.layer2, self.relu2 = nn.Linear(16, 12), nn.ReLU()
        self.classifier = nn.Linear(12, 4)

    def forward(self, x):
        return self.classifier(self.relu2(self.layer2(self.relu1(self.layer1(x)))))


class TinyConv(nn.Module):
    """Strided, grouped and padded convolutions with batch norm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU()
        self.pool, self.flatten, self.classifier = nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 4)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.classifier(self.flatten(self.pool(self.relu2(self.conv2(x)))))


def tiny(network: str, method, batch: int = 3):
    """A rewritten tiny network and an example batch."""
    torch.manual_seed(0)
    net, shape = (TinyMlp(), (20,)) if network == "mlp" else (TinyConv(), (2, 8, 8))
    x, y = torch.randn(batch, *shape), torch.randint(0, 4, (batch,))
    return lf.rewrite(net, method, x), (x, y)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """``exported(network, method, **arguments)`` -> (program, report, folder), each built once per session."""
    cache = {}

    def get(network, method, **arguments):
        key = (network, repr(method), tuple(sorted(arguments.items())))
        if key not in cache:
            model, batch = tiny(network, method)
            out = tmp_path_factory.mktemp("export")
            cache[key] = (*export_module.export_program(model, batch, out, lr=0.05, **arguments), out)
        return cache[key]

    return get
