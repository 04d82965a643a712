"""The step graph computes what the training step computes, and tracing it changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_fwd as lf
from lightning_fwd.graph.phase import PHASES
from lightning_fwd.models import MLP, ResNet8, SmallConv, SmallConv1d
from lightning_fwd.trace.step_graph import trace_inference, trace_step

BATCH = 4
NETS = {"mlp": lambda: MLP(hidden=(24, 16)), "conv": SmallConv, "conv1d": SmallConv1d, "resnet8": ResNet8}


def batch_for(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(BATCH, *net.input_shape, generator=generator),
        torch.randint(0, net.num_classes, (BATCH,), generator=generator),
    )


def eager_step(model: lf.RewrittenModel, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    model.train()
    optimizer.zero_grad()
    with model.step(y):
        loss = F.cross_entropy(model(x), y)
    model.backward(loss)
    optimizer.step()
    return loss.detach()


def every_tensor(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("net", [pytest.param(net, marks=pytest.mark.slow if net in ("resnet8", "conv1d") else ()) for net in NETS])
@pytest.mark.parametrize("method", lf.METHODS)
def test_graph_equals_the_eager_step(net, method):
    torch.manual_seed(0)
    network = NETS[net]()
    if lf.METHODS[method].updates_buffers_only and net == "mlp":
        pytest.skip("no batch norm, nothing that this rule changes")
    x, y = batch_for(network)
    model = lf.rewrite(network, method, x)
    before = every_tensor(model)
    step = trace_step(model, (x, y), lr=0.05)
    after_trace = every_tensor(model)
    assert all(torch.equal(before[n], after_trace[n]) for n in before)
    assert all(p.grad is None for p in model.parameters())
    assert not model.pending
    results = step.run(model, x, y)
    trainable = [p for p in model.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(1))]
    loss = eager_step(model, x, y, torch.optim.SGD(trainable, lr=0.05))
    torch.testing.assert_close(results["loss"], loss)
    after = every_tensor(model)
    for name in after:
        torch.testing.assert_close(results.get(name, before[name]), after[name], rtol=1e-4, atol=2e-5, msg=name) if (
            name != "_lfwd.counter"
        ) else None
    changed = {n for n in after if not torch.equal(before[n], after[n])}
    assert changed - {"_lfwd.counter"} <= set(step.mutated)


@pytest.mark.parametrize("method", lf.METHODS)
def test_every_node_has_phase_and_layer(method):
    net = SmallConv()
    x, y = batch_for(net)
    model = lf.rewrite(net, method, x)
    step = trace_step(model, (x, y))
    for node in step.graph.nodes:
        assert node.meta["phase"] in PHASES
        assert isinstance(node.meta["layer"], str)
    layers = {n.meta["layer"] for n in step.graph.nodes if n.target is torch.ops.aten.convolution.default}
    assert layers == {"stage1.conv", "stage2.conv", "stage3.conv"}
    unlabelled = {n.meta["phase"] for n in step.graph.nodes if n.op == "call_function" and not n.meta["layer"]}
    assert unlabelled <= {"error", "projection", "update"}  # the loss, what came from it, the step counter


def test_backward_nodes_belong_to_the_layer_whose_forward_they_undo():
    net = ResNet8()
    x, y = batch_for(net)
    step = trace_step(lf.rewrite(net, "backprop", x), (x, y))
    backward = [n for n in step.graph.nodes if n.target is torch.ops.aten.convolution_backward.default]
    weight = {node: name for name, node in step.state.items()}
    assert len(backward) == 9
    for node in backward:
        assert weight[node.args[2].name] == f"{node.meta['layer']}.weight"


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0)])
def test_optimizer_in_the_graph_is_torch_s(optimizer, momentum):
    torch.manual_seed(0)
    net = MLP(hidden=(8,))
    x, y = batch_for(net)
    model = lf.rewrite(net, "backprop", x)
    step = trace_step(model, (x, y), optimizer=optimizer, lr=0.02, momentum=momentum)
    shadow, state = copy.deepcopy(net), {}
    reference = (
        torch.optim.Adam(shadow.parameters(), lr=0.02)
        if optimizer == "adam"
        else torch.optim.SGD(shadow.parameters(), lr=0.02, momentum=momentum)
    )
    for _ in range(3):
        results = step.run(model, x, y, **state)
        state = {n: t for n, t in results.items() if n in step.state}
        reference.zero_grad()
        F.cross_entropy(shadow(x), y).backward()
        reference.step()
    for name, parameter in shadow.named_parameters():
        torch.testing.assert_close(state[name], parameter.detach())


def test_modes_are_given_back():
    net = SmallConv().eval()
    x, y = batch_for(net)
    model = lf.rewrite(net, "local_loss", x)
    trace_step(model, (x, y))
    assert not any(m.training for m in model.modules())


def test_a_shared_parameter_gets_one_update_of_the_sum():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    torch.manual_seed(0)
    net, x, y = Twice(), torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    model = lf.rewrite(net, lf.Pepita(), x)
    results = trace_step(model, (x, y), lr=0.1, momentum=0.9).run(model, x, y)
    eager_step(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(results[name], parameter.detach())


def test_inference_graph():
    net = SmallConv()
    x, _ = batch_for(net)
    step = trace_inference(net, x)
    assert step.outputs == ["logits"] and not step.mutated
    torch.testing.assert_close(step.run(net, x)["logits"], net.eval()(x).detach())
    by_goodness = lf.rewrite(SmallConv(), lf.ForwardForward(prediction="goodness"), x)
    convolutions = [n for n in trace_inference(by_goodness, x).graph.nodes if n.target is torch.ops.aten.convolution.default]
    # each layer once, no neutral pass beside the labels': what comes before the label runs once, all that follows once per label
    batches = [n.meta["val"].shape[0] for n in convolutions]
    assert batches == sorted(batches) and len(batches) == 3
    assert set(batches) <= {BATCH, BATCH * 10} and batches[-1] == BATCH * 10
    assert not by_goodness.has_learned


def test_a_step_that_reads_values_is_refused():
    net = MLP(hidden=(8,))
    x, y = batch_for(net)
    model = lf.rewrite(net, "backprop", x)

    def loss(logits, target):
        return logits.sum() if float(logits.sum()) > 0 else -logits.sum()

    with pytest.raises(lf.StepError, match="cannot be traced"):
        trace_step(model, (x, y), loss=loss)
    with pytest.raises(lf.StepError, match="batch of 1, cannot be traced(.|\n)*more than 1 value(.|\n)*batch_norm='freeze'"):
        one = torch.zeros(1, 64), torch.zeros(1, dtype=torch.long)
        normed = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        trace_step(lf.rewrite(normed, lf.Backprop(batch_norm="train"), torch.zeros(2, 64)), one)
    with pytest.raises(lf.StepError, match="unknown optimizer"):
        trace_step(model, (x, y), optimizer="lion")
    with pytest.raises(lf.StepError, match="only sgd"):
        trace_step(model, (x, y), optimizer="adam", momentum=0.9)
    for momentum in (-0.9, float("nan")):
        with pytest.raises(lf.StepError, match="momentum=(-0.9|nan)"):
            trace_step(model, (x, y), momentum=momentum)
