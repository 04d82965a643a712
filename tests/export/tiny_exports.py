"""Small networks to export, and the module whose step the tests watch."""

import importlib

import torch
from torch import nn

import lightning_fwd as lf

export_module = importlib.import_module("lightning_fwd_export.export_step")


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
