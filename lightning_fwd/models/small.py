"""Small networks for recipes and tests, every size an argument."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


def _he(net: nn.Sequential) -> None:
    """He-uniform weights, biases zero."""
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class MLP(nn.Sequential):
    """Fully connected network with ReLU: (B, ...) flattened to in_features, to logits (B, num_classes).

    Arguments:
        in_features: values per sample, 64 for 8x8 digits, 784 for MNIST.
        hidden: width of each hidden layer.
        dropout: probability after each hidden layer; 0 leaves the layer out.
        bias: of every linear layer; PEPITA's authors train without.
        init: "default" (PyTorch's) or "he" (He-uniform weights, as PEPITA's authors; 2.4 times as large).
    """

    input_shape = (64,)
    num_classes = 10

    def __init__(
        self,
        in_features: int = 64,
        hidden: Sequence[int] = (256, 256),
        num_classes: int = 10,
        dropout: float = 0.0,
        bias: bool = True,
        init: Literal["default", "he"] = "default",
    ) -> None:
        super().__init__()
        self.input_shape, self.num_classes = (in_features,), num_classes
        self.add_module("flatten", nn.Flatten())
        for i, width in enumerate(hidden, start=1):
            self.add_module(f"fc{i}", nn.Linear(in_features, width, bias))
            self.add_module(f"relu{i}", nn.ReLU())
            if dropout:
                self.add_module(f"dropout{i}", nn.Dropout(dropout))
            in_features = width
        self.add_module("classifier", nn.Linear(in_features, num_classes, bias))
        if init == "he":
            _he(self)


class OneConv(nn.Sequential):
    """One convolution, ReLU, max pooling if asked, one linear layer: (B, in_channels, H, W) to logits (B, num_classes). He-uniform weights.

    The defaults are PEPITA's published convolutional net (Dellaferrera & Kreiman, ICML 2022). Few filters make the features count.

    Arguments:
        filters, kernel, stride, padding: of the convolution.
        pool: side and stride of the pooling; 1 leaves it out.
    """

    input_shape = (1, 28, 28)
    num_classes = 10

    def __init__(
        self,
        in_channels: int = 1,
        size: int = 28,
        filters: int = 32,
        kernel: int = 5,
        stride: int = 1,
        padding: int = 0,
        pool: int = 2,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.input_shape, self.num_classes = (in_channels, size, size), num_classes
        self.add_module("conv", nn.Conv2d(in_channels, filters, kernel, stride, padding))
        self.add_module("relu", nn.ReLU())
        if pool > 1:
            self.add_module("pool", nn.MaxPool2d(pool))
        self.add_module("flatten", nn.Flatten())
        side = ((size + 2 * padding - kernel) // stride + 1) // pool
        self.add_module("classifier", nn.Linear(filters * side * side, num_classes))
        _he(self)


class _ConvStage(nn.Sequential):
    """Convolution, batch norm (if asked), ReLU; halves the resolution at stride 2."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, kernel: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        conv, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}[dims]
        self.add_module("conv", conv(in_channels, out_channels, kernel, stride, padding=kernel // 2))
        if batch_norm:
            self.add_module("bn", norm(out_channels))
        self.add_module("relu", nn.ReLU())


class _SmallConvNet(nn.Module):
    dims: int

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        num_classes: int,
        batch_norm: bool,
        kernels: Sequence[int] | None,
        strides: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.input_shape, self.num_classes = (in_channels, *self.input_shape[1:]), num_classes
        kernels = [3] * len(widths) if kernels is None else kernels
        strides = [1] + [2] * (len(widths) - 1) if strides is None else strides
        if not len(widths) == len(kernels) == len(strides):
            raise ValueError(f"{len(widths)} widths, {len(kernels)} kernels and {len(strides)} strides: give one of each per stage")
        channels = in_channels
        for i, (width, kernel, stride) in enumerate(zip(widths, kernels, strides, strict=True), start=1):
            self.add_module(f"stage{i}", _ConvStage(self.dims, channels, width, kernel, stride, batch_norm))
            channels = width
        self.add_module("pool", (nn.AdaptiveAvgPool1d if self.dims == 1 else nn.AdaptiveAvgPool2d)(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("classifier", nn.Linear(channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class SmallConv(_SmallConvNet):
    """Stages of convolutions for images of 8x8 to 32x32: (B, in_channels, H, W) to logits (B, num_classes).

    One stage after the other, then global average pool and one linear layer.

    Arguments:
        widths: channels of each stage.
        batch_norm: a BatchNorm2d in each stage.
        kernels: side of each stage's filters (odd), 3 each by default.
        strides: of each stage; by default the first keeps the resolution and each later one halves it.

    Raises:
        ValueError: widths, kernels and strides are of different length.
    """

    dims = 2
    input_shape = (1, 8, 8)
    num_classes = 10

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 32),
        num_classes: int = 10,
        batch_norm: bool = True,
        kernels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_channels, widths, num_classes, batch_norm, kernels, strides)


class SmallConv1d(_SmallConvNet):
    """`SmallConv` over time, for inertial windows: (B, in_channels, T) to logits (B, num_classes).

    Defaults fit six IMU channels (accelerometer, gyroscope), windows of 64 samples and five activities.
    """

    dims = 1
    input_shape = (6, 64)
    num_classes = 5

    def __init__(
        self,
        in_channels: int = 6,
        widths: Sequence[int] = (16, 32, 32),
        num_classes: int = 5,
        batch_norm: bool = True,
        kernels: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_channels, widths, num_classes, batch_norm, kernels, strides)
