"""What may be computed in a layer's place: torch's own classes as they are, nothing that wraps, hooks or subclasses them."""

import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lightning_fwd.graph.plain_layers import BATCH_NORMS, CONVOLUTIONS, is_plain


class ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


def with_own_forward() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = types.MethodType(lambda self, x: 2 * nn.Linear.forward(self, x), layer)
    return layer


def hooked(kind: str) -> nn.Module:
    layer = nn.Linear(3, 3)
    getattr(layer, f"register_{kind}")(lambda *_: None)
    return layer


NOT_PLAIN = {
    "subclass": lambda: ActivatedNorm(3),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)),
    "old weight norm": lambda: weight_norm(nn.Linear(3, 3)),
    "old spectral norm": lambda: spectral_norm(nn.Linear(3, 3)),
    "pruned": lambda: prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5),
    "own forward": with_own_forward,
    "forward hook": lambda: hooked("forward_hook"),
    "forward pre-hook": lambda: hooked("forward_pre_hook"),
    "backward hook": lambda: hooked("full_backward_hook"),
    "backward pre-hook": lambda: hooked("full_backward_pre_hook"),
    "none": lambda: None,
}


@pytest.mark.parametrize("module", [nn.Linear(3, 3), nn.Conv1d(3, 3, 1), nn.BatchNorm2d(3)], ids=lambda m: type(m).__name__)
def test_torch_s_own_layers_are_plain(module):
    assert is_plain(module, nn.Linear, *CONVOLUTIONS, *BATCH_NORMS)
    assert not is_plain(module, nn.ReLU)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", NOT_PLAIN)
def test_what_changes_a_layer_is_not_plain(case):
    assert not is_plain(NOT_PLAIN[case](), nn.Linear, *CONVOLUTIONS, *BATCH_NORMS)
