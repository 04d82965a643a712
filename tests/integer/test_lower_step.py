"""What is lowered and what is refused, and that no float is left."""

import pytest
import torch
from torch import nn

import lightning_fwd as lf
from lightning_fwd.errors import LightningFwdError
from lightning_fwd.integer import IntegerRule

X, Y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])


def net(*middle: nn.Module) -> nn.Module:
    first = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(first, *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def lowered(module, method=None):
    model = lf.rewrite(module, IntegerRule(method or lf.Backprop(), lf.Integer()), X)
    return model, model.method.calibrate(model, X, Y)


def test_no_value_of_the_step_is_a_float():
    for module in (net(nn.ReLU()), net(nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU())):
        _, step = lowered(module)
        values = [n.meta["val"] for n in step.graph.graph.nodes if n.op != "output"]
        assert values and not any(v.is_floating_point() for v in values)


def test_frozen_layers_have_int8_weights_and_trained_ones_int16_masters():
    _, step = lowered(net(nn.ReLU()), lf.SparseUpdate("head"))
    assert step.graph.node("0.weight").meta["val"].dtype == torch.int8
    assert step.graph.node("4.weight").meta["val"].dtype == torch.int16
    assert "0.weight" not in step.graph.mutated and "4.weight" in step.graph.mutated


def test_stored_batch_norm_is_folded():
    module = net(nn.BatchNorm2d(4), nn.ReLU())
    _, step = lowered(module, lf.Backprop(batch_norm="freeze"))
    assert not any("running" in name for name in step.graph.state)


@pytest.mark.parametrize(
    ("module", "method", "said"),
    [
        (net(nn.BatchNorm2d(4), nn.ReLU()), lf.Backprop(), "statistics of the batch"),
        (net(nn.GELU()), lf.Backprop(), "no integer form"),
        (net(nn.MaxPool2d(2), nn.ReLU()), lf.Backprop(), "no integer form"),
        (net(nn.ReLU()), lf.Pepita(), "second_pass='tangent'"),
        (net(nn.ReLU()), lf.ForwardForward(), "label='pattern'"),
    ],
)
def test_what_has_no_integer_form_is_refused_by_name(module, method, said):
    with pytest.raises(LightningFwdError, match=said):
        lowered(module, method)


def test_a_row_that_saturates_doubles_its_range():
    from lightning_fwd.integer.updates import int_ratchet, int_ratchet_exponents, int_saturated

    masters = torch.tensor([[32767, 300], [100, -32768], [5, 7]], dtype=torch.int16)
    rows = int_saturated(masters, torch.tensor(15))
    assert rows.tolist() == [1, 1, 0] and int_saturated(masters, torch.tensor(14)).tolist() == [0, 0, 0]
    halved = int_ratchet(masters, rows, 128)
    assert halved.dtype == torch.int16 and halved[2].tolist() == [5, 7]
    assert torch.allclose((halved[:2].double() - 128) * 2, masters[:2].double() - 128, atol=1)
    assert int_ratchet_exponents(torch.tensor([6, 6, 6], dtype=torch.int8), rows).tolist() == [5, 5, 6]


def test_an_error_that_was_spread_by_pooling_is_narrow_enough_for_the_layer_it_passes_through():
    """32 outputs and 9 taps: 288 products of 7 bits leave 15 for the error, so that no sum leaves 31 bits."""
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)
    _, step = lowered(nn.Sequential(*layers))
    (back,) = (n for n in step.graph.graph.nodes if "int_conv_back" in str(n.target))
    before, stack = [], [back.args[0]]
    while stack:
        node = stack.pop()
        before += [node] if "int_narrow." in str(node.target) else []
        stack += [node.args[0]] if node.op == "call_function" and "int_linear_back" not in str(node.target) else []
    assert [n.args[3] for n in before] == [15]
