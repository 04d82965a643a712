"""`build`, the small networks and Keras padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_fwd import LightningFwdError
from lightning_fwd.models import MLP, MODELS, OneConv, ResNet8, SamePad2d, SmallConv, SmallConv1d, build


def test_build_by_name_and_by_import_path():
    assert isinstance(build("resnet8", num_classes=4), ResNet8)
    assert build("resnet8", num_classes=4).num_classes == 4
    layer = build("torch.nn.Linear", in_features=3, out_features=2)
    assert isinstance(layer, nn.Linear) and layer.out_features == 2


def test_build_tells_what_is_wrong(tmp_path, monkeypatch):
    for name, arguments, said in (
        ("resnet9", {}, "unknown model 'resnet9'\n.*did you mean 'resnet8'(.|\n)*ds_cnn.*package.module.Class"),
        (5, {}, "model 5 is no name(.|\n)*ds_cnn"),
        ("math.pi", {}, "'math.pi' is a float"),
        ("fractions.Fraction", {}, "'fractions.Fraction' is the class Fraction, no torch.nn.Module(.|\n)*not called"),
        ("torch.nn.Linear", {"in_features": -1, "out_features": 2}, "cannot be made: RuntimeError: (.|\n)*its arguments: in_features"),
        ("mlp", {"hiden": 3}, "'hiden'\n.*model_args: hiden=3\n.*its arguments: in_features=64, hidden="),
        ("torch.nn.Linear", {}, "missing 2 required(.|\n)*model_args: none\n.*its arguments: in_features, out_features, bias=True"),
    ):
        with pytest.raises(LightningFwdError, match=said):
            build(name, **arguments)
    with pytest.raises(ImportError, match="cannot import 'no_such_package'"):
        build("no_such_package.Net")
    (tmp_path / "half_written_net.py").write_text("class Net(:\n")
    (tmp_path / "raising_net.py").write_text("import torch\ntorch.nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot import 'half_written_net': SyntaxError: .*half_written_net.py, line 1"):
        build("half_written_net.Net")
    with pytest.raises(ImportError, match="cannot import 'raising_net': AttributeError: .*nothing_of_the_kind"):
        build("raising_net.Net")
    with pytest.raises(ImportError, match="module 'torch.nn' has no 'Linnear'"):
        build("torch.nn.Linnear")


@pytest.mark.parametrize("name", MODELS)
def test_class_attributes_hold_for_a_default_instance(name: str):
    model = MODELS[name]()
    assert (model.input_shape, model.num_classes) == (MODELS[name].input_shape, MODELS[name].num_classes)


def test_mlp_flattens_and_takes_any_depth():
    model = MLP(784, hidden=(20, 30, 40), num_classes=5, dropout=0.1, bias=False).eval()
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 5)
    assert [layer.out_features for layer in model if isinstance(layer, nn.Linear)] == [20, 30, 40, 5]
    assert all(layer.bias is None for layer in model if isinstance(layer, nn.Linear))
    assert sum(isinstance(layer, nn.Dropout) for layer in model) == 3


@pytest.mark.parametrize("size", [8, 14, 28, 32])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_small_conv_takes_images_of_8_to_32(size: int, batch_norm: bool):
    model = SmallConv(3, widths=(4, 8, 8), num_classes=6, batch_norm=batch_norm).eval()
    assert model(torch.randn(2, 3, size, size)).shape == (2, 6)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == batch_norm


def test_small_conv_takes_kernels_and_strides_per_stage():
    model = SmallConv(1, (4, 8), kernels=[7, 5], strides=[2, 1], batch_norm=False).eval()
    assert model.stage2(model.stage1(torch.randn(2, 1, 28, 28))).shape == (2, 8, 14, 14)
    assert [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)] == [(7, 7), (5, 5)]
    with pytest.raises(ValueError, match="2 widths, 1 kernels and 2 strides"):
        SmallConv(1, (4, 8), kernels=[7])


def test_small_conv1d_takes_inertial_windows():
    assert SmallConv1d()(torch.randn(2, 6, 64)).shape == (2, 5)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 40), kernel=st.integers(1, 10), stride=st.integers(1, 4))
def test_same_padding_is_that_of_keras(size: int, kernel: int, stride: int):
    """ceil(size / stride) outputs; padding no larger than needed, one more at the end where it is odd."""
    left, right, top, bottom = SamePad2d((size, size), (kernel, kernel), stride).padding
    assert (left, right) == (top, bottom)
    assert right - left in (0, 1)
    outputs = -(-size // stride)
    assert (size + left + right - kernel) // stride + 1 == outputs
    if left + right:
        assert (size + left + right - 1 - kernel) // stride + 1 == outputs - 1


@pytest.mark.parametrize(
    ("filters", "kernel", "stride", "padding", "pool", "features"),
    [(32, 5, 1, 0, 2, 32 * 12 * 12), (8, 14, 7, 0, 1, 8 * 9), (4, 5, 2, 2, 3, 4 * 16)],
)
def test_one_conv_has_the_features_that_its_sizes_give(filters, kernel, stride, padding, pool, features):
    net = OneConv(filters=filters, kernel=kernel, stride=stride, padding=padding, pool=pool).eval()
    assert net.classifier.in_features == features and net(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_he_uniform_weights_are_within_their_bound():
    for net, layer in ((MLP(96, (40,), bias=False, init="he"), "fc1"), (OneConv(), "conv")):
        weight = net.get_submodule(layer).weight
        bound = (6 / weight[0].numel()) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound
