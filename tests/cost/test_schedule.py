"""Scheduling lowers the peak and changes no number, also when memory is really written over."""

import pytest
import torch
from step_nets import GatedUnit, ResNet8Tail, SelfAttention, batch_for, conv, mlp
from torch import fx, nn

import lightning_fwd as lf
from lightning_fwd.cost import step_cost
from lightning_fwd.cost.memory import plan_memory
from lightning_fwd.cost.schedule import (
    PASSES,
    apply_updates_at_once,
    has_shared_gradients,
    part_shared_gradients,
    recompute_cheap,
    schedule,
    split_convolution_backward,
    write_in_place,
)
from lightning_fwd.cost.schedule.rewire import readers_of
from lightning_fwd.cost.widths import Widths
from lightning_fwd.models import MLP, ResNet8, SmallConv
from lightning_fwd.trace import StepGraph, trace_step
from lightning_fwd.trace.values import base_of, gradient_values, is_part

NETS = {
    "mlp": mlp, "conv": conv, "conv_bn": SmallConv, "resnet8": ResNet8, "gated": GatedUnit, "attention": SelfAttention
}  # fmt: skip


class DeviceInterpreter(fx.Interpreter):
    """Runs a graph in the memory that its plan gives it.

    Memory is really written over where the schedule permits it, streamed values are made when the loop that they are part of runs, and each
    buffer is filled with garbage once the plan says that it is dead.
    """

    def __init__(self, step: StepGraph):
        super().__init__(step.module, garbage_collect_values=False)
        plan = plan_memory(step, Widths(step, "fp32"))
        self.calls = [n for n in step.graph.nodes if n.op == "call_function"]
        self.dying: dict[int, list[tuple[str, int]]] = {}
        outputs: dict[tuple[str, int], int] = {}
        for buffer in plan.buffers:
            if buffer.born >= 0 and buffer.category != "scratch" and buffer.dies < len(self.calls) - 1:
                output = outputs[buffer.name, buffer.born] = outputs.get((buffer.name, buffer.born), -1) + 1
                self.dying.setdefault(buffer.dies, []).append((buffer.name, output))
        self.by_name, self.index = {n.name: n for n in step.graph.nodes}, {n: i for i, n in enumerate(self.calls)}

    def run_node(self, node: fx.Node):
        if "streamed" in node.meta:
            return None
        self.make_streamed(node)
        result = super().run_node(node)
        if "in_place_of" in node.meta:
            target = self.env[node.meta["in_place_of"]]
            target.copy_(result)
            result = target
        self.env[node] = result
        for name, output in self.dying.get(self.index.get(node, -1), []):
            value = self.env[self.by_name[name]]
            value = [v for v in value if v is not None][output] if isinstance(value, tuple | list) else value
            value.fill_(float("nan") if value.dtype.is_floating_point else 1)
        return result

    def make_streamed(self, node: fx.Node):
        for operand in node.all_input_nodes:
            if "streamed" in operand.meta:
                self.make_streamed(operand)
                self.env[operand] = super().run_node(operand)


def run_overwriting(step: StepGraph, model, x, y) -> dict[str, torch.Tensor]:
    known = {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
    known |= {"input": x.clone(), "target": y.clone()}
    names = {node: name for name, node in (step.inputs | step.state).items()}
    placeholders = [n for n in step.graph.nodes if n.op == "placeholder"]
    values = [known[names[n.name]] if names[n.name] in known else torch.zeros(n.meta["val"].shape) for n in placeholders]
    with torch.no_grad():
        return dict(zip(step.outputs, DeviceInterpreter(step).run(*values), strict=True))


@pytest.mark.parametrize("method", sorted(lf.METHODS))
@pytest.mark.parametrize("net", [pytest.param(net, marks=pytest.mark.slow if net in ("resnet8", "conv") else ()) for net in NETS])
def test_numbers_stay_the_same(net, method):
    if net not in ("conv_bn", "resnet8") and lf.METHODS[method].updates_buffers_only:
        pytest.skip("nothing to change without batch norm")
    torch.manual_seed(0)
    network = NETS[net]()
    x, y = batch_for(network)
    model = lf.rewrite(network, method, x)
    step = trace_step(model, (x, y), momentum=0.9)
    expected = step.run(model, x, y)
    for recompute in (False, True) if net == "conv_bn" else (False,):
        scheduled, plans = schedule(step, "fp32", recompute)
        got, overwritten = scheduled.run(model, x, y), run_overwriting(scheduled, model, x, y)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value), name
            assert torch.equal(overwritten[name], value), name
        peaks = [plan.peak_bytes for _, plan in plans]
        assert peaks[-1] <= peaks[0]
        assert plan_memory(scheduled, Widths(scheduled, "fp32")).peak_bytes == peaks[-1]


def test_each_pass_alone_keeps_the_numbers():
    network = SmallConv()
    x, y = batch_for(network)
    model = lf.rewrite(network, "backprop", x)
    step = trace_step(model, (x, y))
    expected = step.run(model, x, y)
    for transform in (*(t for _, t in PASSES), lambda step, _: write_in_place(step)):
        got = run_overwriting(transform(step, Widths(step, "fp32")), model, x, y)
        assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_backprop_saves_the_gradient_buffers():
    """As traced, all gradients and all new weights wait for the end; at once and in place, only the largest gradient lives."""
    network = mlp()
    x, y = batch_for(network, 1)
    model = lf.rewrite(network, "backprop", x)
    step = trace_step(model, (x, y))
    before = plan_memory(step, Widths(step, "fp32"))
    after_step = apply_updates_at_once(step)
    after = plan_memory(after_step, Widths(after_step, "fp32"))
    weights = 4 * sum(p.numel() for p in network.parameters())
    largest = 4 * 128 * 128
    assert before.by_category()["gradients"] + before.by_category()["new weights"] >= weights
    assert after.by_category()["new weights"] == 0
    saved = before.peak_bytes - after.peak_bytes
    assert saved >= weights - largest - 4 * (128 + 128)
    assert after.peak_bytes <= weights + largest + 4 * 1100
    report = step_cost(model, (x, y))
    assert dict(report.savings)["as traced"] == before.peak_bytes
    assert report.peak_ram_bytes == report.savings[-1][1] <= after.peak_bytes
    assert step_cost(model, (x, y), scheduled=False).peak_ram_bytes == before.peak_bytes


def test_a_price_as_traced_runs_no_pass(monkeypatch):
    monkeypatch.setattr("lightning_fwd.cost.ledger.schedule", lambda *_: pytest.fail("scheduled"))
    network = mlp()
    assert lf.step_cost(lf.rewrite(network, "backprop", batch_for(network, 2)[0]), batch_for(network, 2), scheduled=False).total_macs


def test_a_scheduled_step_is_compiled_when_it_is_asked_for():
    network = mlp()
    x, y = batch_for(network, 2)
    model = lf.rewrite(network, "backprop", x)
    step = split_convolution_backward(trace_step(model, (x, y)))
    assert "_code" not in vars(step.module)
    assert "def forward" in step.module.code and "def forward" in str(step.module)
    one = next(n for n in step.graph.nodes if n.op == "call_function" and n.target is torch.ops.aten.relu.default)
    one.target = torch.ops.aten.neg.default
    step.module.recompile()
    assert "neg" in step.module.code
    before = trace_step(model, (x, y)).run(model, x, y)
    assert any(not torch.equal(value, before[name]) for name, value in step.run(model, x, y).items())


def test_recomputation_trades_operations_for_memory():
    network = ResNet8Tail()
    x, y = batch_for(network, 4)
    model = lf.rewrite(network, "backprop", x)
    kept, again = step_cost(model, (x, y)), step_cost(model, (x, y), recompute=True)
    assert again.peak_activation_bytes < kept.peak_activation_bytes
    assert again.total_elementwise > kept.total_elementwise
    assert again.total_macs == kept.total_macs
    step = trace_step(model, (x, y))
    for name, value in recompute_cheap(step).run(model, x, y).items():
        assert torch.equal(value, step.run(model, x, y)[name])


def test_scheduling_leaves_the_traced_step_alone():
    network = conv()
    x, y = batch_for(network)
    step = trace_step(lf.rewrite(network, "pepita", x), (x, y))
    names = [n.name for n in step.graph.nodes]
    schedule(step, "fp32")
    assert [n.name for n in step.graph.nodes] == names
    assert not any("in_place_of" in n.meta for n in step.graph.nodes)


def test_a_layer_s_input_dies_with_the_gradient_of_its_weight():
    """The error to that input, made next, takes its shape but reads none of its values."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 16, 3))
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    model = lf.rewrite(network, "backprop", x)
    step = trace_step(model, (x, y))
    split = split_convolution_backward(step)
    of_weight, of_bias, error = [
        n for n in split.graph.nodes if n.target is torch.ops.aten.convolution_backward.default and n.meta["layer"] == "1"
    ]
    calls = [n for n in split.graph.nodes if n.op == "call_function"]
    plan = plan_memory(split, Widths(split, "fp32"))
    (between,) = [b for b in plan.buffers if b.name == error.args[1].name]
    assert between.dies == calls.index(of_weight) < calls.index(error)
    scheduled, plans = schedule(step, "fp32")
    got = run_overwriting(scheduled, model, x, y)
    assert all(torch.equal(got[name], value) for name, value in step.run(model, x, y).items())
    # the peak: all weights, the input, two weights' gradients, the second layer's error, and its input or the error to that, never both
    weights, made, gradients, between = (sum(p.numel() for p in network.parameters()), 2 * 4 * 16, 8 * 4 * 9 + 3 * 64, 2 * 8 * 36)
    assert plans[-1][1].peak_bytes <= 4 * (weights + x.numel() + made + gradients + between + 60)


def test_what_is_read_in_another_order_is_not_written_over():
    class Symmetric(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.nn.Linear(5, 5), torch.nn.Linear(5, 3)

        def forward(self, x):
            h = self.inner(x)
            return self.head(torch.sigmoid(h + 2 * h.t()))

    x, y = torch.randn(5, 5), torch.tensor([0, 1, 2, 0, 1])
    model = lf.rewrite(Symmetric(), "backprop", x)
    step = trace_step(model, (x, y))
    got = run_overwriting(schedule(step, "fp32")[0], model, x, y)
    assert all(torch.equal(got[name], value) for name, value in step.run(model, x, y).items())


def test_a_tensor_lives_as_long_as_its_parts():
    """Queries, keys and values lie in one tensor, which the last reader of any of them ends."""
    x, y = batch_for(SelfAttention())
    step = trace_step(lf.rewrite(SelfAttention(), "backprop", x), (x, y))
    parts = [n for n in step.graph.nodes if is_part(n)]
    (whole,) = {base_of(n) for n in parts}
    calls = [n.name for n in step.graph.nodes if n.op == "call_function"]
    last = max(calls.index(r.name) for n in parts for r in readers_of(n))
    plan = plan_memory(step, Widths(step, "fp32"))
    (buffer,) = [b for b in plan.buffers if b.name == whole[0].name]
    assert len(parts) == 3 and buffer.bytes == 4 * 2 * 6 * 24 and buffer.dies == last
    for node in schedule(step, "fp32")[0].graph.nodes:
        assert "in_place_of" not in node.meta or not is_part(node.meta["in_place_of"])


def test_gradients_and_masks_are_streamed():
    """Backprop of a chain of equal linear layers, batch 1: no weight gradient and no mask of a ReLU is ever stored."""
    network = mlp()
    x, y = batch_for(network, 1)
    scheduled, _ = schedule(trace_step(lf.rewrite(network, "backprop", x), (x, y)), "fp32")
    streamed = {n.target for n in scheduled.graph.nodes if "streamed" in n.meta}
    assert {torch.ops.aten.mm.default, torch.ops.aten.le.Scalar} <= streamed
    weights = 4 * sum(p.numel() for p in network.parameters())
    plan = plan_memory(scheduled, Widths(scheduled, "fp32"))
    # all activations, the logits' copy in the loss and one error
    assert plan.peak_bytes - weights <= 4 * (64 + 128 + 128 + 3 * 10 + 2 * 128) + 64


def test_adam_is_streamed_too():
    network = mlp()
    x, y = batch_for(network, 1)
    step = trace_step(model := lf.rewrite(network, "backprop", x), (x, y), optimizer="adam")
    scheduled, plans = schedule(step, "fp32")
    got = run_overwriting(scheduled, model, x, y)
    assert all(torch.equal(got[name], value) for name, value in step.run(model, x, y).items())
    plan, state = plans[-1][1], 3 * 4 * sum(p.numel() for p in network.parameters())
    # beside weights and both moments: the largest gradient, which both of them read, and no more of the optimizer
    assert plan.peak_bytes <= state + 4 * 128 * 128 + 4 * 1200


def test_a_weight_read_after_its_update_is_not_overwritten():
    """Two layers share a weight: the update waits for the second reader."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(self.inner(torch.relu(self.inner(x)))))

    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    for method in ("pepita", lf.Pepita(variant="time_local"), "backprop"):
        model = lf.rewrite(Twice(), method, x)
        step = trace_step(model, (x, y))
        scheduled, _ = schedule(step, "fp32")
        got = run_overwriting(scheduled, model, x, y)
        for name, value in step.run(model, x, y).items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6, msg=f"{method}, {name}")  # the sum in another order


def test_gradients_that_name_a_weight_do_not_wait_for_it():
    """A convolution's weight gradient takes the weight as an operand and does not read it: two of them step it, one after the other."""
    network = SmallConv()
    x, y = batch_for(network)
    model = lf.rewrite(network, lf.Pepita(variant="time_local", batch_norm="freeze"), x)
    step = trace_step(model, (x, y))
    assert has_shared_gradients(step)
    scheduled, plans = schedule(step, "fp32")
    got, expected = run_overwriting(scheduled, model, x, y), step.run(model, x, y)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-5)
    assert plans[-1][1].peak_bytes < plans[0][1].peak_bytes


def test_long_chains_made_of_state_are_scheduled():
    """Hybrid images come of a seed by a hundred operations that read one another twice: walked path by path, this would not end."""
    method = lf.ForwardForward(negatives="hybrid", head="own")
    cost = lf.step_cost(MLP(576, (4, 4), 3), (torch.zeros(3, 1, 24, 24), torch.zeros(3, dtype=torch.int64)), method=method)
    assert cost.peak_ram_bytes > 0


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.mix(x)[0][:, -1])


@pytest.mark.parametrize("method", ["backprop", "local_loss", "pepita"])
def test_the_peak_never_ends_above_the_traced_one(method):
    """Through time, loops that join and nodes that move both lengthen what is alive: only without the two of them does it end lower."""
    plans = step_cost(Recurrent(), torch.randn(2, 6, 4), method=method).savings
    assert plans[-1][1] < plans[0][1]


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_a_shared_weight_is_stepped_by_each_gradient(momentum):
    """Through six time steps, and no sum of the gradients is stored."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, 4), torch.tensor([0, 2])
    model = lf.rewrite(Recurrent(), "backprop", x)
    step = trace_step(model, (x, y), momentum=momentum)
    assert has_shared_gradients(step)
    scheduled, plans = schedule(step, "fp32")
    got, expected = run_overwriting(scheduled, model, x, y), step.run(model, x, y)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-6)
    weight = expected["mix.weight_hh_l0"]
    assert not torch.equal(weight, dict(model.named_parameters())["mix.weight_hh_l0"])
    assert plans[-1][1].by_category()["gradients"] < 4 * weight.numel()
    apart = part_shared_gradients(step)
    parts = [n.all_input_nodes[k] for n in apart.graph.nodes if "partial_update" in n.meta for k in (0, 1)]
    gradients = [n for n in parts if n.op == "call_function" and "partial_update" not in n.meta]
    assert len(gradients) >= 6 and all((n, 0) in gradient_values(apart) for n in gradients)
