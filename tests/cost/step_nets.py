"""Small networks and batches that the cost tests share."""

import torch
from torch import nn

from lightning_fwd.models import MLP, FCAutoencoder, ResNet8, SmallConv


class ResNet8Tail(nn.Module):
    """The last residual block of ResNet-8 and its classifier: (B, 32, 16, 16) to (B, 10)."""

    input_shape, num_classes = (32, 16, 16), 10

    def __init__(self):
        super().__init__()
        whole = ResNet8()
        self.block3, self.pool, self.flatten, self.classifier = (
            whole.block3,
            whole.pool,
            whole.flatten,
            whole.classifier,
        )

    def forward(self, x):
        return self.classifier(self.flatten(self.pool(self.block3(x))))


class GatedUnit(nn.Module):
    """A gated linear unit, whose halves are parts of one tensor that is read again as a whole: (B, 16) to (B, 4)."""

    input_shape, num_classes = (16,), 4

    def __init__(self):
        super().__init__()
        self.inner, self.gated, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(48, 4)

    def forward(self, x):
        h = self.gated(torch.relu(self.inner(x)))
        u, v = h.chunk(2, 1)
        return self.head(torch.cat([u * torch.sigmoid(v), h], 1))


class SelfAttention(nn.Module):
    """One head, its queries, keys and values parts of one tensor: (B, 6, 8) to (B, 4)."""

    input_shape, num_classes = (6, 8), 4

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head((torch.softmax(q @ k.transpose(1, 2), -1) @ v).mean(1))


def mlp() -> MLP:
    return MLP(hidden=(128, 128))


def conv() -> SmallConv:
    return SmallConv(batch_norm=False)


def batch_for(net: nn.Module, size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and labels (for the autoencoder: its input as the target)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, *net.input_shape, generator=generator)
    return (x, x) if isinstance(net, FCAutoencoder) else (x, torch.randint(0, net.num_classes, (size,), generator=generator))
