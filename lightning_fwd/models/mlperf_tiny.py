"""The five MLCommons-Tiny reference networks (github.com/mlcommons/tiny, v1.x), layer for layer.

All take NCHW input and return logits; the softmax that ends the Keras classifiers is `predict_proba`. The order in
which layers are created is that of the Keras definitions: the loader of the official weights relies on it.
"""

from os import PathLike
from typing import ClassVar

from torch import Tensor, nn

from .keras_weights import load_keras_weights
from .layers import DepthwiseSeparable, batch_norm, same_padding


class Classifier(nn.Module):
    """A network that returns logits of shape (B, num_classes)."""

    input_shape: ClassVar[tuple[int, ...]]
    input_range: ClassVar[str]
    num_classes: int

    def predict_proba(self, x: Tensor) -> Tensor:
        """Class probabilities (B, num_classes): the softmax that the Keras originals hold as their last layer."""
        return self(x).softmax(dim=-1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C_in, S, S) to (B, C_out, S/stride, S/stride).

    The shortcut is a 1x1 convolution without batch norm where the stride is 2, else the input itself.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, size: int) -> None:
        super().__init__()
        self.pad, padding = same_padding((size, size), (3, 3), stride)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding)
        self.bn1 = batch_norm(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = batch_norm(out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if stride != 1 else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(self.pad(x))))
        return self.relu2(self.shortcut(x) + self.bn2(self.conv2(y)))


class Stem(nn.Module):
    """The first convolution with batch norm and ReLU, padded as Keras `same` does."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], stride: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pad, padding = same_padding(size, kernel_size, stride)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.bn = batch_norm(out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(self.pad(x))))


class ResNet8(Classifier):
    """Image classification (CIFAR-10): (B, 3, 32, 32) RGB in 0..255 to logits (B, num_classes); 78,666 parameters.

    Arguments:
        num_classes: width of the last layer.
        weights: path of the official weights, `resnet8.npz` or Keras `.h5` (see `load_keras_weights` for its errors).

    Example:
        >>> ResNet8(weights="mlperf_tiny/resnet8.npz").eval()(images)  # images (B, 3, 32, 32), 0..255
    """

    input_shape = (3, 32, 32)
    input_range = "RGB pixels 0..255, not scaled"
    num_classes = 10

    def __init__(self, num_classes: int = 10, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = Stem(3, 16, (3, 3), stride=1, size=(32, 32))
        self.block1 = ResidualBlock(16, 16, stride=1, size=32)
        self.block2 = ResidualBlock(16, 32, stride=2, size=32)
        self.block3 = ResidualBlock(32, 64, stride=2, size=16)
        self.pool = nn.AvgPool2d(8)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, num_classes)
        if weights is not None:
            load_keras_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.classifier(self.flatten(self.pool(x)))


class DSCNN(Classifier):
    """Keyword spotting (Speech Commands): (B, 1, 49, 10) MFCC to logits (B, num_classes); 24,908 parameters.

    Classes: Down Go Left No Off On Right Stop Up Yes Silence Unknown. Arguments as for `ResNet8`; `ds_cnn_kws.npz`.
    """

    input_shape = (1, 49, 10)
    input_range = "MFCC, 49 frames of 10 coefficients, about -120..100: (q - 83) * 0.5847029 for the int8 value q"
    num_classes = 12

    def __init__(self, num_classes: int = 12, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = Stem(1, 64, (10, 4), stride=2, size=(49, 10))
        self.dropout1 = nn.Dropout(0.2)
        self.block1 = DepthwiseSeparable(64, 64, stride=1, size=(25, 5))
        self.block2 = DepthwiseSeparable(64, 64, stride=1, size=(25, 5))
        self.block3 = DepthwiseSeparable(64, 64, stride=1, size=(25, 5))
        self.block4 = DepthwiseSeparable(64, 64, stride=1, size=(25, 5))
        self.dropout2 = nn.Dropout(0.4)
        self.pool = nn.AvgPool2d((24, 5))  # of 25 x 5: Keras `valid` leaves the last row out
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, num_classes)
        if weights is not None:
            load_keras_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout1(self.stem(x))
        x = self.dropout2(self.block4(self.block3(self.block2(self.block1(x)))))
        return self.classifier(self.flatten(self.pool(x)))


class MobileNetV1(Classifier):
    """Visual wake words, width 0.25: (B, 3, 96, 96) RGB in 0..1 to logits (B, num_classes); 221,794 parameters.

    Arguments as for `ResNet8`; file `mobilenet_v1_025_vww.npz`.
    """

    input_shape = (3, 96, 96)
    input_range = "RGB pixels scaled to 0..1"
    num_classes = 2

    # (output channels, stride) of the thirteen depthwise separable blocks
    blocks: ClassVar = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))

    def __init__(self, num_classes: int = 2, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = Stem(3, 8, (3, 3), stride=2, size=(96, 96))
        channels, size = 8, 48
        for i, (out_channels, stride) in enumerate(self.blocks, start=1):
            self.add_module(f"block{i}", DepthwiseSeparable(channels, out_channels, stride, (size, size)))
            channels, size = out_channels, size // stride
        self.pool = nn.AvgPool2d(3)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(256, num_classes)
        if weights is not None:
            load_keras_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class FullyConnected(nn.Module):
    """Linear, batch norm, ReLU: (B, in_features) to (B, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.fc(x)))


class FCAutoencoder(nn.Module):
    """Anomaly detection (ToyADMOS): (B, 640) log-mel features to their reconstruction (B, 640); 269,992 parameters.

    No classes and no softmax. Arguments as for `ResNet8`; file `autoencoder_ad.npz`.
    """

    input_shape = (640,)
    input_range = "5 frames of 128 log-mel bands, dB"
    num_classes = None

    def __init__(self, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
        for i, (in_features, out_features) in enumerate(zip(widths, widths[1:], strict=False), start=1):
            self.add_module(f"layer{i}", FullyConnected(in_features, out_features))
        self.output = nn.Linear(128, 640)
        if weights is not None:
            load_keras_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x

    def anomaly_score(self, x: Tensor) -> Tensor:
        """Mean squared reconstruction error (B,), which MLPerf Tiny averages over the windows of one clip."""
        return (self(x) - x).square().mean(dim=-1)


class StreamingBlock(nn.Module):
    """Depthwise convolution over time, pointwise convolution, batch norm, ReLU, dropout; no padding, no bias.

    (B, C_in, T, 1) to (B, C_out, T - frames + 1, 1).
    """

    def __init__(self, in_channels: int, out_channels: int, frames: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, (frames, 1), groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = batch_norm(out_channels)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.relu(self.bn(self.pointwise(self.depthwise(x)))))


class StreamingWakeWord(Classifier):
    """Streaming wake word: (B, 40, 30, 1), 30 frames of 40 features, to logits (B, num_classes); 47,707 parameters.

    Arguments as for `ResNet8`; file `sww_streaming.npz`.
    """

    input_shape = (40, 30, 1)
    input_range = "30 frames of 40 log-mel features as channels, as the MLCommons preprocessing scales them"
    num_classes = 3

    def __init__(self, num_classes: int = 3, weights: str | PathLike[str] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.block1 = StreamingBlock(40, 128, frames=3)
        self.block2 = StreamingBlock(128, 128, frames=5)
        self.block3 = StreamingBlock(128, 128, frames=10)
        self.block4 = StreamingBlock(128, 32, frames=15)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(32, num_classes)
        if weights is not None:
            load_keras_weights(self, weights)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.classifier(self.flatten(x))
