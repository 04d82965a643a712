"""MACs against torch's own counter and against hand counts; the phases of backpropagation."""

import pytest
import torch
from step_nets import batch_for, conv, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.cost.operations import _count, operations
from lightning_fwd.cost.schedule import split_convolution_backward
from lightning_fwd.cost.widths import Widths
from lightning_fwd.graph.elementwise_count import count_elementwise
from lightning_fwd.models import DSCNN, MLP, FCAutoencoder, MobileNetV1, ResNet8, SmallConv, StreamingWakeWord
from lightning_fwd.trace import trace_inference, trace_step

MLCOMMONS = {c.__name__: c for c in (ResNet8, DSCNN, MobileNetV1, FCAutoencoder, StreamingWakeWord)}
QUICK = {"FCAutoencoder"}  # the others take a minute between them: pytest -m slow


def loss_of(net: nn.Module):
    return F.mse_loss if isinstance(net, FCAutoencoder) else F.cross_entropy


class FlopCounter(TorchDispatchMode):
    """``FlopCounterMode``'s formulas without its module tracker, which cannot stand ``autograd.grad`` on leaves.

    Its formula for the weight gradient of a convolution leaves the groups out (a depthwise layer counts C times too much): divided here.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if function is torch.ops.aten.convolution_backward.default:
            error, weight, _ = args[-1]
            self.total += formula(*args[:-1], [error, False, False], out_val=out)
            self.total += formula(*args[:-1], [False, weight, False], out_val=out) // args[-2]
        elif formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted_by_torch(model: lf.RewrittenModel, x: torch.Tensor, y: torch.Tensor, loss) -> int:
    model.train()
    with FlopCounter() as counter, model.step(y):
        model.backward(loss(model(x), y))
    return counter.total // 2


def unused_macs(model: lf.RewrittenModel, method: str, x: torch.Tensor) -> int:
    """What eager mode computes and nothing reads: the last layer of PEPITA's second pass (its update needs only its input)."""
    return x.shape[0] * list(model.parameters())[-2].numel() if method == "pepita" else 0


@pytest.mark.parametrize("method", [pytest.param("backprop", marks=pytest.mark.slow), "pepita"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MLCOMMONS])
def test_macs_are_half_of_torch_s_flops(name, method):
    net = MLCOMMONS[name]()
    x, y = batch_for(net)
    model = lf.rewrite(net, method, x)
    report = step_cost(model, (x, y), loss=loss_of(net))
    assert report.total_macs + unused_macs(model, method, x) == counted_by_torch(model, x, y, loss_of(net))


@pytest.mark.parametrize("method", sorted(lf.METHODS))
def test_every_method_on_a_conv_net(method):
    net = SmallConv()
    x, y = batch_for(net)
    model = lf.rewrite(net, method, x)
    report = step_cost(model, (x, y))
    assert report.total_macs + unused_macs(model, method, x) == counted_by_torch(model, x, y, F.cross_entropy)
    assert sum(report.macs_by_phase.values()) == sum(report.macs_by_layer.values()) == report.total_macs


def test_phases_of_backprop_by_hand():
    net = mlp()  # 64 - 128 - 128 - 10
    x, y = batch_for(net, 3)
    phases = step_cost(net, (x, y)).macs_by_phase
    forward = 3 * (64 * 128 + 128 * 128 + 128 * 10)
    assert phases["forward"] == phases["update"] == forward
    assert phases["backward"] == forward - 3 * 64 * 128  # no error to the input


def test_convolution_by_hand_grouped_strided_transposed():
    class Net(nn.Module):
        input_shape, num_classes = (4, 8, 8), 5

        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
            self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return self.head(torch.relu(self.up(torch.relu(self.first(x)))).mean((2, 3)))

    net = Net()
    x, y = batch_for(net, 2)
    first, up, head = 2 * 8 * 4 * 4 * (2 * 9), 2 * 8 * 4 * 4 * (6 * 4), 2 * 6 * 5
    report = step_cost(net, (x, y))
    assert report.macs_by_phase == {
        "forward": first + up + head,
        "error": 0,
        "backward": up + head,
        "update": first + up + head,
    }
    assert report.macs_by_layer["first"] == 2 * first
    assert report.macs_by_layer["up"] == 3 * up


def test_depthwise_convolution_has_one_input_channel():
    net = DSCNN()
    lines = {(c.phase, c.layer): c.macs for c in step_cost(net, batch_for(net, 1)).lines}
    assert lines["forward", "block1.depthwise"] == 64 * 25 * 5 * 9
    assert lines["forward", "block1.pointwise"] == 64 * 64 * 25 * 5


def test_sparse_update_counts_only_what_it_trains():
    net = mlp()
    x, y = batch_for(net, 1)
    head = step_cost(net, (x, y), method=lf.SparseUpdate(train="head"))
    assert head.macs_by_phase["update"] == 128 * 10
    assert head.macs_by_phase.get("backward", 0) == 0
    assert head.parameters_trained == 128 * 10 + 10
    assert head.parameters_frozen == sum(p.numel() for p in net.parameters()) - head.parameters_trained


def test_elementwise_operations_by_hand():
    net = MLP(in_features=4, hidden=(6,), num_classes=3)
    x, y = torch.randn(2, 4), torch.tensor([0, 1])
    report = step_cost(net, (x, y))
    by = {(c.phase, c.layer): c.elementwise for c in report.lines}
    assert by["forward", "relu1"] == 2 * 6
    assert by["backward", "relu1"] == 2 * (2 * 6)  # the comparison and the choice
    assert by["update", "fc1"] == 2 * 6 + 4 * 6 + 6  # the sum of the bias gradient, and SGD


def test_bytes_moved_follow_the_width():
    net = conv()
    x, y = batch_for(net, 1)
    wide, narrow = (step_cost(net, (x, y), width=w) for w in ("fp32", "int8"))
    lines = [{(c.phase, c.layer): c for c in r.lines} for r in (wide, narrow)]
    key = ("forward", "stage2.conv")
    assert lines[0][key].read_bytes == 4 * (16 * 64 + 32 * 16 * 9 + 32)
    assert lines[0][key].written_bytes == 4 * 32 * 16
    assert lines[1][key].read_bytes == 16 * 64 + 32 * 16 * 9 + 4 * 32  # biases stay 32-bit
    assert lines[1][key].written_bytes == 32 * 16
    assert wide.total_macs == narrow.total_macs


def test_parts_of_a_convolution_s_backward_read_only_what_they_need():
    """The error to the input needs the weight, the weight's gradient the input, the bias's gradient neither; as traced the last two are one
    share."""
    net = conv()
    x, y = batch_for(net, 2)
    model = lf.rewrite(net, "backprop", x)
    made, read, weight, bias = 2 * 32 * 16, 2 * 16 * 64, 32 * 16 * 9, 32  # values of stage2.conv
    step = trace_step(model, (x, y))
    parts = {}
    for traced in (step, split_convolution_backward(step)):
        for op in operations(traced, Widths(traced, "fp32")):
            if op.node.startswith("convolution_backward") and op.layer == "stage2.conv":
                parts.setdefault(traced is step, []).append((op.phase, op.read_bytes // 4, op.written_bytes // 4, op.elementwise))
    assert parts[True] == [("backward", made + weight, read, 0), ("update", made + read, weight + bias, made)]
    assert parts[False] == [("update", made + read, weight, 0), ("update", made, bias, made), ("backward", made + weight, read, 0)]


def test_error_through_a_frozen_weight_is_backward_work_beside_its_bias_gradient():
    """One traced node makes both: the error's MAC are no update."""
    net = conv()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.requires_grad_(False)
    report = step_cost(net, batch_for(net, 1), scheduled=False)
    lines = {(c.phase, c.layer): c for c in report.lines}
    assert lines["backward", "stage2.conv"].macs == lines["forward", "stage2.conv"].macs > 0
    assert lines["update", "stage2.conv"].macs == 0 and lines["update", "stage2.conv"].elementwise == 32 * 16 + 32


def test_a_matrix_made_from_its_seed_is_priced_draw_by_draw():
    """Per entry of F: counter, eight of the hash, shift, conversion, three of scaling; per value of the input one sum. Stored, the sum
    alone."""
    net = MLP(in_features=4, hidden=(6,), num_classes=3)
    stored, drawn = (step_cost(net, torch.zeros(2, 4), method=lf.Pepita(feedback=f)) for f in ("stored", "regenerated"))
    assert drawn.elementwise_by_phase["projection"] - stored.elementwise_by_phase["projection"] == 14 * 4 * 3
    assert drawn.macs_by_phase == stored.macs_by_phase
    assert drawn.not_counted == stored.not_counted


def test_an_operator_declares_its_elementwise_operations():
    """The ledger asks the registry, whoever the operator belongs to; what declares nothing is listed as a guess."""

    @torch.library.custom_op("lfwd_test::halve", mutates_args=())
    def halve(x: torch.Tensor) -> torch.Tensor:
        return x[: len(x) // 2].clone()

    halve.register_fake(lambda x: x.new_empty(len(x) // 2, *x.shape[1:]))
    graph = torch.fx.symbolic_trace(lambda x: torch.ops.lfwd_test.halve.default(x)).graph
    placeholder, node, _ = graph.nodes
    placeholder.meta["val"], node.meta["val"] = torch.zeros(6, 5), torch.zeros(3, 5)
    assert _count(node) == (0, 15, True)
    count_elementwise(torch.ops.lfwd_test.halve)(lambda x: 7 * x.numel())
    assert _count(node) == (0, 7 * 30, False)


def test_attention_takes_torch_s_formula():
    class Attention(nn.Module):
        input_shape, num_classes = (6, 8), 3

        def __init__(self):
            super().__init__()
            self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            weights = torch.softmax(q @ k.transpose(1, 2) * 8**-0.5, dim=-1)
            return self.head((weights @ v).mean(1))

    net = Attention()
    x, y = batch_for(net)
    model = lf.rewrite(net, "backprop", x)
    assert step_cost(model, (x, y)).total_macs == counted_by_torch(model, x, y, F.cross_entropy)


class Sequence(nn.Module):
    """A layer over a sequence (5, 8), then a linear head on the mean."""

    input_shape, num_classes = (5, 8), 3

    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        h = self.layer(x, x, x, need_weights=False) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.head(h[0].mean(1))


def test_layers_with_kernels_of_their_own_on_the_host_by_hand():
    """An LSTM and fused attention are one node each on a CPU: they are traced as the matrix products that they are."""
    batch, steps = 2, 5
    lstm = batch * steps * (8 + 16) * 4 * 16
    phases = step_cost(Sequence(nn.LSTM(8, 16, batch_first=True), 16), torch.zeros(batch, steps, 8)).macs_by_phase
    assert phases["forward"] == phases["update"] == lstm + batch * 16 * 3
    # errors: to the states alone, not to the input, nor before the first step
    assert phases["backward"] == batch * (steps - 1) * 16 * 4 * 16 + batch * 16 * 3
    projections, products, head = batch * steps * 8 * (24 + 8), 2 * batch * steps * steps * 8, batch * 8 * 3
    report = step_cost(Sequence(nn.MultiheadAttention(8, 2, batch_first=True), 8), torch.zeros(batch, steps, 8))
    assert report.macs_by_phase == {
        "forward": projections + products + head,
        "error": 0,
        "backward": batch * steps * 8 * 8 + 2 * products + head,
        "update": projections + head,
    }
    assert not any("output element" in note for note in report.not_counted)


def test_inference_can_be_priced():
    net = ResNet8()
    x, _ = batch_for(net, 1)
    step = trace_inference(net, x)
    assert sum(op.macs for op in operations(step, Widths(step, "fp32"))) == 12_501_632


def test_unknown_operations_are_listed_not_hidden():
    class Sorted(nn.Module):
        input_shape, num_classes = (8,), 3

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(torch.cumprod(self.a(x), dim=1))

    net = Sorted()
    notes = step_cost(net, batch_for(net)).not_counted
    assert any("cumprod" in note and "one operation per output element" in note for note in notes)


def test_mixed_width_splits_the_macs():
    net = SmallConv()
    x, y = batch_for(net, 1)
    report = step_cost(net, (x, y), width="mixed", method=lf.SparseUpdate(train="head"))
    assert report.macs_by_arithmetic["int8"]["forward"] == report.macs_by_phase["forward"] - 320
    assert report.macs_by_arithmetic["fp32"] == {"forward": 320, "error": 0, "update": 320}
    step = trace_step(lf.rewrite(net, lf.SparseUpdate(train="head"), x), (x, y))
    assert Widths(step, "mixed").bytes(step.node("classifier.weight")) == 4 * 320
    assert Widths(step, "mixed").bytes(step.node("stage2.conv.weight")) == 32 * 16 * 9
    with pytest.raises(lf.StepError, match="unknown width"):
        step_cost(net, (x, y), width="int4")
