"""The path of a layer, as torch.export notes it for a network that fx has traced."""

import pytest
import torch
from lightning_fwd_export.int8 import layer_of
from lightning_fwd_export.npu.lower import _LAYERS
from lightning_fwd_export.npu.taps import insert_taps
from torch import nn


def block(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), *more)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.ModuleList([block(), block()])
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x):
        x = self.body(x)
        for inner in self.blocks:
            x = inner(x)
        return self.classifier(self.flatten(self.pool(x)))


@pytest.mark.parametrize(
    ("net", "paths"),
    [
        (Nested(), ["body.0", "blocks.0.0", "blocks.1.0", "classifier"]),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), block(block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
            None,
        ),
    ],
)
def test_layers_within_a_sequential_have_their_paths(net, paths):
    example = torch.randn(1, 3, 8, 8)
    exported = torch.export.export(insert_taps(net.eval(), example).module, (example,), strict=True).module(check_guards=False)
    found = [layer_of(node) for node in exported.graph.nodes if node.target in _LAYERS]
    assert found == (paths or ["0", "2.0", "2.2.0", "5"])
