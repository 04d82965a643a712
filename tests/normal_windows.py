"""Normal samples of a few causes, and a small detector that was trained on them."""

import torch
from torch import nn

from lightning_fwd.adaptation.anomaly import Detector

BANDS = 6


def windows(count, seed=0, drift=False):
    """Three places of six bands, each of two causes and noise ``(N, 18)``."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(count, 3, 2, generator=generator)
    x = causes @ torch.randn(2, BANDS, generator=torch.Generator().manual_seed(100)) + 0.1 * torch.randn(
        count, 3, BANDS, generator=generator
    )
    return (0.5 * x + 2.0 if drift else x).flatten(1)


def detector():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3 * BANDS, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3 * BANDS))
    adam, x = torch.optim.Adam(net.parameters(), 1e-2), windows(400)
    for _ in range(150):
        adam.zero_grad()
        (net(x) - x).square().mean().backward()
        adam.step()
    return Detector(net.eval(), x, BANDS)
