"""A small network with every kind of layer that an Ethos-U takes."""

import torch
from torch import nn


class TinyResidual(nn.Module):
    """Every kind of layer that the records' finder must tell apart: strided, depthwise, pointwise, shortcut, linear. Logits and
    features."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1, self.relu1 = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.depthwise, self.relu2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.ReLU()
        self.point, self.bn2, self.relu3 = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.flatten, self.classifier = nn.Flatten(), nn.Linear(16, 5)

    def forward(self, x):
        x = self.relu1(self.bn1(self.stem(x)))
        x = self.relu3(x + self.bn2(self.point(self.relu2(self.depthwise(x)))))
        features = self.flatten(nn.functional.avg_pool2d(x, (4, 4)))
        return self.classifier(features), features


class OnlyLogits(TinyResidual):
    """The same as a classifier."""

    def forward(self, x):
        return super().forward(x)[0]


def fitted(net: nn.Module, samples: int = 256) -> nn.Module:
    """With batch norms as trained: statistics that are those of the data (here noise)."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    net.train()(torch.randn(samples, *getattr(net, "input_shape", (3, 8, 8))))
    return net.eval()
