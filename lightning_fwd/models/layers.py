"""Building blocks that the reference networks share."""

from torch import Tensor, nn


class SamePad2d(nn.ZeroPad2d):
    """Keras `same` padding ahead of a strided convolution: an odd row or column goes to the bottom or right.

    PyTorch pads both sides alike, which at stride 2 shifts every window by one pixel. The padding is fixed by the
    input size given here, so that the network stays free of control flow on shapes and traces with torch.fx.

    Arguments:
        size: (H, W) of the input.
        kernel_size: (kh, kw) of the convolution that follows.
        stride: of that convolution, both directions.
    """

    def __init__(self, size: tuple[int, int], kernel_size: tuple[int, int], stride: int) -> None:
        (top, bottom), (left, right) = (_same_padding(length, kernel, stride) for length, kernel in zip(size, kernel_size, strict=True))
        super().__init__((left, right, top, bottom))


def _same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    windows = -(-length // stride)
    total = max((windows - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def same_padding(size: tuple[int, int], kernel_size: tuple[int, int], stride: int) -> tuple[nn.Module, tuple[int, int]]:
    """Keras `same` padding: a module ahead of the convolution and the convolution's `padding`, one of them void.

    A symmetric padding is left to the convolution, which pads without a copy of its input.
    """
    pad = SamePad2d(size, kernel_size, stride)
    left, right, top, bottom = pad.padding
    return (nn.Identity(), (top, left)) if (left, top) == (right, bottom) else (pad, (0, 0))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm2d with the constants of Keras, which all MLCommons-Tiny networks keep (PyTorch: 1e-5 and 0.1)."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3, batch norm, ReLU, pointwise 1x1, batch norm, ReLU: (B, C_in, H, W) to (B, C_out, H/s, W/s).

    Arguments:
        size: (H, W) of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pad, padding = same_padding(size, (3, 3), stride)
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels)
        self.bn1 = batch_norm(in_channels)
        self.relu1 = nn.ReLU()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.bn2 = batch_norm(out_channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.depthwise(self.pad(x))))
        return self.relu2(self.bn2(self.pointwise(x)))
