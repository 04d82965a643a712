"""Two nets that are written out by hand in the closed forms."""

import torch
from method_table import CLASSES, clusters
from torch import nn

import lightning_fwd as lf


def mlp():
    net = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, CLASSES))
    net.input_shape = (16,)
    return net


def conv():
    net = nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))
    net.input_shape = (1, 8, 8)
    return net


def setting(make, method, count=8):
    """A net as drawn by one seed, rewritten, and a batch."""
    torch.manual_seed(2)
    net = make()
    x, y = clusters(net, count)
    return net, lf.rewrite(net, method, x[:2]), x, y
